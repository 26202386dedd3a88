"""The memory estimate against real training steps: the peak of live tensors over a forward and a backward pass."""

from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kaito.catalog import Model, estimate_tuning_memory

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers", "ignore::DeprecationWarning:torch")

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, VOCAB = 256, 704, 4, 4, 2, 2048
LENGTH, RANK = 128, 8


class LiveTensors(TorchDispatchMode):
    """Sums the storages that are alive after each operation, but for those that were there before."""

    def __init__(self, before: set[int]) -> None:
        super().__init__()
        self.before = before
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self.before:
                    self.live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.live = {key: kept for key, kept in self.live.items() if not kept[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return result


def _measure(
    architecture: str, dtype: torch.dtype, *, checkpointing: bool, dropout: float, rows: int
) -> dict[str, int]:
    """Bytes of a real step: `weights` of the base, `adapter` (its fp32 weights), `peak` of all that comes to live."""
    import transformers
    from peft import LoraConfig, get_peft_model

    config = getattr(transformers, f"{architecture}Config")(
        hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, vocab_size=VOCAB, max_position_embeddings=1024, tie_word_embeddings=False,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    weights = sum(parameter.numel() * parameter.element_size() for parameter in base.parameters())
    model = get_peft_model(
        base, LoraConfig(r=RANK, target_modules="all-linear", lora_dropout=dropout, task_type="CAUSAL_LM")
    )
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    adapter = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    ids = torch.randint(3, VOCAB, (rows, LENGTH))
    existing = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers(), ids]}
    with LiveTensors(existing) as tensors:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is not torch.float32):
            logits = model(input_ids=ids, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids.flatten())
            del logits
        loss.backward()
    return {"weights": weights, "adapter": adapter, "peak": tensors.peak}


@pytest.mark.parametrize(
    ("architecture", "dtype", "checkpointing", "dropout", "rows"),
    [
        ("Llama", "bfloat16", False, 0.05, 1),
        ("Llama", "float32", True, 0.0, 1),
        ("Phi3", "bfloat16", True, 0.05, 1),
        ("Phi3", "float32", False, 0.0, 2),
    ],
)
def test_the_estimate_covers_a_real_step_without_waste(
    architecture: str, dtype: str, checkpointing: bool, dropout: float, rows: int
) -> None:
    real = _measure(architecture, getattr(torch, dtype), checkpointing=checkpointing, dropout=dropout, rows=rows)
    model = Model(
        name="small", repo="./small", architecture=f"{architecture}ForCausalLM", layers=LAYERS, hidden=HIDDEN,
        intermediate=INTERMEDIATE, heads=HEADS, kv_heads=KV_HEADS, head_dim=HIDDEN // HEADS, vocab=VOCAB,
        kv_bytes_per_token=4 * LAYERS * KV_HEADS * HIDDEN // HEADS,
    )  # fmt: skip
    parts = estimate_tuning_memory(
        model, rank=RANK, sequence_length=LENGTH, available_bytes=2**50, dtype=dtype, lora_dropout=dropout,
        gradient_checkpointing=checkpointing, max_micro_batch=rows, device="cpu",
    ).parts  # fmt: skip
    assert parts["weights"] == pytest.approx(real["weights"], rel=0.01)
    assert parts["adapter"] == 4 * real["adapter"]
    # Of the step itself: the adapter's gradients, which the step makes too, are in the adapter's part.
    step = real["peak"] - real["adapter"]
    assert 0.95 * step < parts["activations"] + parts.get("logits", 0) < 1.4 * step
