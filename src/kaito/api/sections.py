"""The sections of a training configuration but TrainingArguments. None means "not said": the plan fills it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from kaito.api.effects import refuse_known
from kaito.api.schema import Integer, Number, Typed


class Section(Typed):
    """Base of the six sections."""


def _bare_dtype(value: Any) -> Any:
    return value.removeprefix("torch.") if isinstance(value, str) else value


Dtype = Annotated[
    Literal["auto", "bfloat16", "float16", "float32", "float64", "half", "float", "double"],
    BeforeValidator(_bare_dtype),
]
ComputeDtype = Annotated[
    Literal["auto", "bfloat16", "float16", "float32", "half", "float"], BeforeValidator(_bare_dtype)
]
Positive = Annotated[Integer, Field(ge=1)]
NotNegative = Annotated[Integer, Field(ge=0)]
Seed = Annotated[Integer, Field(ge=0, lt=2**32)]
Share = Annotated[Number, Field(ge=0, le=1)]


class ModelConfig(Section):
    """How the base model is loaded. Which model that is, `tuning.preset` says."""

    pretrained_model_name_or_path: str | None = None
    """KAITO's path of the weights (`/workspace/tfs/weights`). Without effect: the preset names the model."""
    state_dict: dict[str, Any] | None = None
    """Without effect."""
    cache_dir: str | None = None
    """Without effect: downloads lie in the run folder."""
    force_download: bool | None = None
    """Without effect: what was downloaded is checked by digest."""
    proxies: str | dict[str, str] | None = None
    """Without effect: set HTTPS_PROXY in the environment."""
    output_loading_info: bool | None = None
    """Without effect."""
    local_files_only: bool | None = None
    """Without effect: the trainer itself never uses the network."""
    revision: str | None = None
    """The base model's branch, tag or commit. It is resolved to a commit once, at the start."""
    trust_remote_code: bool | None = None
    """Whether code from the model's repository may run. Never needed for the models of the catalog."""
    torch_dtype: Dtype | None = None
    """The type in which weights and activations are held. `bfloat16` where the GPU has it."""
    device_map: str | dict[str, Integer | str] | None = None
    """Without effect: one process a GPU, each with the whole model."""
    chat_template: Annotated[str, Field(min_length=1)] | None = None
    """A Jinja chat template: its text, or a file's name (`/workspace/chat_templates/X.jinja`: a shipped one)."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] | None = (
        None
    )
    """The attention kernel; chosen by device where not said."""


class QuantizationConfig(Section):
    """How the frozen base model's weights are quantised (bitsandbytes)."""

    quant_method: Literal["bitsandbytes"] | None = None
    """The library that quantises."""
    load_in_8bit: bool | None = None
    """Hold the base model's linear layers in 8 bits (LLM.int8)."""
    load_in_4bit: bool | None = None
    """Hold the base model's linear layers in 4 bits. The default for method `qlora`."""
    llm_int8_threshold: Annotated[Number, Field(ge=0)] | None = None
    """Activations beyond it are computed in 16 bits."""
    llm_int8_skip_modules: list[str] | None = None
    """Modules that are not quantised."""
    llm_int8_enable_fp32_cpu_offload: bool | None = None
    """Without effect: each GPU holds the whole model."""
    llm_int8_has_fp16_weight: bool | None = None
    """Keep 16-bit weights beside the 8-bit ones."""
    bnb_4bit_compute_dtype: ComputeDtype | None = None
    """The type in which 4-bit layers compute."""
    bnb_4bit_quant_type: Literal["fp4", "nf4"] | None = None
    """The 4-bit type."""
    bnb_4bit_use_double_quant: bool | None = None
    """Quantise the quantisation constants too: 0.4 bits a parameter less."""
    bnb_4bit_quant_storage: Dtype | Literal["uint8", "int8"] | None = None
    """The type in which packed 4-bit weights are stored."""


Names = list[str] | str
Initialisation = bool | Literal["gaussian", "orthogonal"]


class LoraConfig(Section):
    """The adapter: peft's LoraConfig, read as peft reads it."""

    r: Positive | None = None
    """Rank of the update matrices."""
    lora_alpha: Positive | None = None
    """The update is scaled by `lora_alpha / r`."""
    lora_dropout: Annotated[Number, Field(ge=0, lt=1)] | None = None
    """Dropout before the update matrices."""
    target_modules: Names | None = None
    """`all-linear`, a list of module names (suffixes), or one regular expression over whole names."""
    exclude_modules: Names | None = None
    """Modules that get no update: a list of names, or one regular expression."""
    bias: Literal["none", "all", "lora_only"] | None = None
    """Which biases are trained."""
    use_rslora: bool | None = None
    """Scale by `lora_alpha / sqrt(r)` (rank-stabilised LoRA)."""
    use_dora: bool | None = None
    """Train magnitude and direction apart (DoRA)."""
    fan_in_fan_out: bool | None = None
    """Weights are stored (in, out), as in GPT-2."""
    inference_mode: Literal[False] | None = None
    """Only `false` trains."""
    modules_to_save: list[str] | None = None
    """Modules trained and saved whole."""
    init_lora_weights: Annotated[Initialisation, refuse_known("LoraConfig", "init_lora_weights")] | None = None
    """`true` (the update starts at nothing), `false` (at noise, for tests), gaussian or orthogonal."""
    layers_to_transform: list[Integer] | Integer | None = None
    """Only these layers, counted from 0."""
    layers_pattern: Names | None = None
    """The name of the list of layers, where it is unusual."""
    rank_pattern: dict[str, Positive] | None = None
    """Module name or expression -> rank, where it differs from `r`."""
    alpha_pattern: dict[str, Number] | None = None
    """Module name or expression -> alpha, where it differs from `lora_alpha`."""
    loftq_config: dict[str, Any] | None = None
    """Without effect: LoftQ is not trained."""
    eva_config: dict[str, Any] | None = None
    """Without effect: EVA is not trained."""
    corda_config: dict[str, Any] | None = None
    """Without effect: CorDA is not trained."""
    layer_replication: list[list[Integer]] | None = None
    """Not trained: an adapter of stacked layers fits no other base model."""
    megatron_config: dict[str, Any] | None = None
    """Without effect."""
    megatron_core: str | None = None
    """Without effect."""
    trainable_token_indices: list[Integer] | dict[str, list[Integer]] | None = None
    """Embeddings of these tokens are trained."""
    target_parameters: list[str] | None = None
    """Parameters (not modules) that get an update, such as the experts of a mixture."""
    lora_bias: bool | None = None
    """Add a bias to the second update matrix."""
    task_type: str | None = None
    """Only `CAUSAL_LM` trains."""
    revision: str | None = None
    """Without effect: the base model's commit is written."""
    base_model_name_or_path: str | None = None
    """Without effect: the base model's id is written."""
    auto_mapping: dict[str, Any] | None = None
    """Without effect."""
    peft_type: str | None = None
    """Only `LORA` is trained."""

    @field_validator("task_type")
    @classmethod
    def _causal(cls, value: str | None) -> str | None:
        if value is not None and value.upper() != "CAUSAL_LM":
            raise ValueError("only CAUSAL_LM is trained here; leave it out")
        return value

    @field_validator("peft_type")
    @classmethod
    def _lora(cls, value: str | None) -> str | None:
        if value is not None and value.upper() != "LORA":
            raise ValueError("only LORA is trained here; leave it out")
        return value

    @field_validator("layer_replication")
    @classmethod
    def _unstacked(cls, value: list[list[int]] | None) -> list[list[int]] | None:
        if value:
            raise ValueError("stacks layers of the base model, so that the adapter would fit no other; leave it out")
        return value


class DatasetConfig(Section):
    """Where the rows are in the fetched data, and what their columns mean."""

    dataset_path: str | None = None
    """A file or folder within the fetched data; everything there is read where not said."""
    dataset_extension: str | None = None
    """Refuse files of another format than this: `jsonl`, `json`, `csv`, `parquet` or `arrow`, compressed or not."""
    shuffle_dataset: bool | None = None
    """Shuffle the rows, by `shuffle_seed`."""
    shuffle_seed: Seed | None = None
    """Seed of the shuffle and of the split."""
    train_test_split: Annotated[Number, Field(gt=0, le=1)] | None = None
    """The share of rows that is trained on; the rest is evaluated. 1: no evaluation."""
    messages_column: Annotated[str, Field(min_length=1)] | None = None
    """The column with the list of messages."""
    prompt_column: Annotated[str, Field(min_length=1)] | None = None
    """The column with the prompt."""
    completion_column: Annotated[str, Field(min_length=1)] | None = None
    """The column with the prompt's completion."""
    context_column: Annotated[str, Field(min_length=1)] | None = None
    """The column with what the response answers; beside an instruction, its further input."""
    response_column: Annotated[str, Field(min_length=1)] | None = None
    """The column with the answer."""
    text_column: Annotated[str, Field(min_length=1)] | None = None
    """The column with plain text, all of it trained on."""
    column_mapping: dict[str, Annotated[str, Field(min_length=1)]] | None = None
    """Standard name -> the data's column: `{instruction: question, output: answer}`."""
    train_on_last_turn_only: bool | None = None
    """Of a conversation, learn the last answer alone; the earlier ones are read."""
    long_rows: Literal["truncate", "drop", "error"] | None = None
    """What becomes of a row longer than `max_length`: cut (the default), left out and counted, or an error."""

    @field_validator("column_mapping")
    @classmethod
    def _known_columns(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        for name in value or ():
            if name not in COLUMNS:
                raise ValueError(f"{name!r} is no standard column; map from one of {', '.join(COLUMNS)}")
        return value

    @model_validator(mode="after")
    def _said_once(self) -> DatasetConfig:
        for name, column in (self.column_mapping or {}).items():
            said = getattr(self, f"{name}_column", None)
            if said is not None and said != column:
                raise ValueError(f"column_mapping says {name}: {column}, and {name}_column says {said}")
        return self


COLUMNS = (
    "messages",
    "prompt",
    "completion",
    "context",
    "response",
    "text",
    "system",
    "instruction",
    "input",
    "output",
)


class DataCollator(Section):
    """KAITO's collator section. Nothing in it has an effect: batches are built from labels by position."""

    mlm: bool | None = None
    """Read as false: causal language models learn the next token, not masked ones."""
    mlm_probability: Share | None = None
    """Without effect."""
    mask_replace_prob: Share | None = None
    """Without effect."""
    random_replace_prob: Share | None = None
    """Without effect."""
    whole_word_mask: bool | None = None
    """Without effect."""
    pad_to_multiple_of: Positive | None = None
    """Without effect."""
    seed: Seed | None = None
    """Without effect: `TrainingArguments.seed` seeds everything."""
    return_tensors: str | None = None
    """Without effect."""
    tokenizer: str | None = None
    """Without effect: the base model's own is used."""
