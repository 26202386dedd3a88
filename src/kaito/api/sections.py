"""The sections of a training configuration but TrainingArguments. None means "not said": the plan fills it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from kaito.api.schema import Integer, Number, Typed


class Section(Typed):
    """Base of the six sections."""


def _bare_dtype(value: Any) -> Any:
    return value.removeprefix("torch.") if isinstance(value, str) else value


Dtype = Annotated[
    Literal["auto", "bfloat16", "float16", "float32", "float64", "half", "float", "double"],
    BeforeValidator(_bare_dtype),
]
Positive = Annotated[Integer, Field(ge=1)]
NotNegative = Annotated[Integer, Field(ge=0)]
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
    """Keep layers that do not fit the GPU on the CPU, in 32 bits."""
    llm_int8_has_fp16_weight: bool | None = None
    """Keep 16-bit weights beside the 8-bit ones."""
    bnb_4bit_compute_dtype: Dtype | None = None
    """The type in which 4-bit layers compute."""
    bnb_4bit_quant_type: Literal["fp4", "nf4"] | None = None
    """The 4-bit type."""
    bnb_4bit_use_double_quant: bool | None = None
    """Quantise the quantisation constants too: 0.4 bits a parameter less."""
    bnb_4bit_quant_storage: Dtype | Literal["uint8", "int8"] | None = None
    """The type in which packed 4-bit weights are stored."""


Names = list[str] | str


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
    init_lora_weights: bool | str | None = None
    """`true`, `false`, or a method: gaussian, eva, olora, pissa, pissa_niter_N, corda, loftq, orthogonal."""
    layers_to_transform: list[Integer] | Integer | None = None
    """Only these layers, counted from 0."""
    layers_pattern: Names | None = None
    """The name of the list of layers, where it is unusual."""
    rank_pattern: dict[str, Positive] | None = None
    """Module name or expression -> rank, where it differs from `r`."""
    alpha_pattern: dict[str, Number] | None = None
    """Module name or expression -> alpha, where it differs from `lora_alpha`."""
    loftq_config: dict[str, Any] | None = None
    """Options of the LoftQ initialisation."""
    eva_config: dict[str, Any] | None = None
    """Options of the EVA initialisation."""
    corda_config: dict[str, Any] | None = None
    """Options of the CorDA initialisation."""
    layer_replication: list[list[Integer]] | None = None
    """Pairs [start, end) of layers that are stacked."""
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

    @field_validator("init_lora_weights")
    @classmethod
    def _known_initialisation(cls, value: bool | str | None) -> bool | str | None:
        if isinstance(value, str) and not _is_initialisation(value):
            raise ValueError(f"expected true, false, {', '.join(_INITIALISATIONS)} or pissa_niter_N, got {value!r}")
        return value


_INITIALISATIONS = ("gaussian", "eva", "olora", "pissa", "corda", "loftq", "orthogonal")


def _is_initialisation(value: str) -> bool:
    return value in _INITIALISATIONS or value.removeprefix("pissa_niter_").isdecimal()


class DatasetConfig(Section):
    """Where the rows are in the fetched data, and what their columns mean."""

    dataset_path: str | None = None
    """A file or folder within the fetched data; everything there is read where not said."""
    dataset_extension: str | None = None
    """Read the files as this format (`jsonl`, `json` or `parquet`), whatever their names end in."""
    shuffle_dataset: bool | None = None
    """Shuffle the rows, by `shuffle_seed`."""
    shuffle_seed: NotNegative | None = None
    """Seed of the shuffle and of the split."""
    train_test_split: Annotated[Number, Field(gt=0, le=1)] | None = None
    """The share of rows that is trained on; the rest is evaluated. 1: no evaluation."""
    messages_column: str | None = None
    """The column with the list of messages."""
    prompt_column: str | None = None
    """The column with the prompt."""
    context_column: str | None = None
    """A column with further input, put after the prompt."""
    response_column: str | None = None
    """The column with the answer."""
    text_column: str | None = None
    """The column with plain text, all of it trained on."""
    column_mapping: dict[str, str] | None = None
    """Standard name -> the data's column: `{prompt: question, completion: answer}`."""

    @field_validator("column_mapping")
    @classmethod
    def _known_columns(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        for name in value or ():
            if name not in COLUMNS:
                raise ValueError(f"{name!r} is no standard column; map from one of {', '.join(COLUMNS)}")
        return value


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
    seed: NotNegative | None = None
    """Without effect: `TrainingArguments.seed` seeds everything."""
    return_tensors: str | None = None
    """Without effect."""
    tokenizer: str | None = None
    """Without effect: the base model's own is used."""
