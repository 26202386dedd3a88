"""Attention over documents that lie one after the other in one row: each attends to itself alone.

Two kernels under names of their own in transformers' attention interface. A model that is told to use such a name
builds no mask and passes the documents' bounds down to here. Whether it really does, `kaito.tuning.packing` proves.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

BY_DOCUMENT = "kaito_by_document"
VARLEN = "kaito_varlen"
FLASH_ATTENTION = "flash_attention_2"  # transformers' own: reads the bounds by its own names

VARLEN_LARGEST_HEAD = 256
NOT_UNDERSTOOD = ("softcap", "s_aux", "sinks", "position_bias", "indices", "block_indices")
"""What models pass to their attention, where it is more than the kernels here know."""


class AttentionNotUnderstood(ValueError):
    """The model's attention is more than causal attention within a window."""


def document_inputs(bounds: tuple[int, ...], cu_seqlens: torch.Tensor) -> dict[str, Any]:
    """What a model's forward takes besides tokens and positions: by our names, and by those of flash attention."""
    longest = max(end - begin for begin, end in pairwise(bounds))
    return {
        "bounds": bounds,
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": cu_seqlens,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def attend_by_document(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    bounds: tuple[int, ...] | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """PyTorch's attention, one call a document: on a CPU faster than one call with a mask, which computes what it
    masks. `query`, `key`, `value`: (1, heads, tokens, head size). Returns (1, tokens, heads, head size).
    """
    bounds = _understood(attention_mask, bounds, others)
    lengths = [end - begin for begin, end in pairwise(bounds)]
    parts = zip(*(torch.split(states, lengths, dim=2) for states in (query, key, value)), strict=True)
    outputs = [
        sdpa_attention_forward(module, *part, _window(part[0], sliding_window), dropout=dropout, scaling=scaling)[0]
        for part in parts
    ]
    return torch.cat(outputs, dim=1), None


def _window(query: torch.Tensor, size: int | None) -> torch.Tensor | None:
    """The mask of a document that is longer than the window; None where all that came before is seen."""
    length = query.shape[2]
    if size is None or length <= size:
        return None
    position = torch.arange(length, device=query.device)
    distance = position[:, None] - position
    return ((distance >= 0) & (distance < size))[None, None]


def attend_varlen(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    bounds: tuple[int, ...] | None = None,
    cu_seq_lens_q: Any = None,
    max_length_q: int = 0,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """PyTorch's flash attention for documents of any length: a single kernel, on a GPU, in half precision."""
    from torch.nn.attention.varlen import varlen_attn

    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    fits = query.is_cuda and dtype.itemsize == 2 and query.shape[-1] == value.shape[-1] <= VARLEN_LARGEST_HEAD
    if dropout or not fits or not getattr(module, "is_causal", True):
        return attend_by_document(
            module, query, key, value, attention_mask, dropout, scaling, sliding_window, bounds, **others
        )
    _understood(attention_mask, bounds, others)
    q, k, v = (states[0].transpose(0, 1).to(dtype) for states in (query, key, value))
    window = (-1 if sliding_window is None else sliding_window - 1, 0)
    gqa = query.shape[1] != key.shape[1]
    cu, longest = cu_seq_lens_q, max_length_q
    output = varlen_attn(q, k, v, cu, cu, longest, longest, scale=scaling, window_size=window, enable_gqa=gqa)
    return cast("torch.Tensor", output)[None], None


def _understood(
    attention_mask: torch.Tensor | None, bounds: tuple[int, ...] | None, others: dict[str, Any]
) -> tuple[int, ...]:
    """The bounds. Raises AttentionNotUnderstood where the model asks for more than is done here."""
    if bounds is None:
        raise AttentionNotUnderstood("the documents' bounds do not reach its attention")
    more = [name for name in NOT_UNDERSTOOD if others.get(name) is not None]
    if attention_mask is not None:
        more.append("a mask of its own")
    if others.get("is_causal") is False:
        more.append("no causal order")
    if more:
        raise AttentionNotUnderstood(f"its attention has {', '.join(more)}")
    return bounds


AttentionInterface.register(BY_DOCUMENT, attend_by_document)
AttentionInterface.register(VARLEN, attend_varlen)
