"""Memory that runs out outside of the training steps: the device's word comes from a hook in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from kaito.failure import OutOfMemoryFailure
from tests.unit.tuning.tiny_models import settings

Tune = Callable[..., dict[str, Any]]


@contextmanager
def memory_for(rows: int, *, with_gradients: bool) -> Iterator[list[int]]:
    """As on a device where more rows at once do not fit. Gives the rows of each batch that was tried."""
    tried: list[int] = []

    def allocate(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, torch.nn.Embedding) and torch.is_grad_enabled() == with_gradients:
            tried.append(inputs[0].shape[0])
            if inputs[0].shape[0] > rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = register_module_forward_pre_hook(allocate)
    try:
        yield tried
    finally:
        hook.remove()


def padded(**arguments: Any) -> dict[str, dict[str, Any]]:
    return settings(max_steps=2, packing=False, padding_free=False, **arguments)


def test_an_evaluation_that_does_not_fit_is_made_in_smaller_batches(tune: Tune) -> None:
    whole = tune("whole", padded())
    with memory_for(2, with_gradients=False) as tried:
        cut = tune("cut", padded())
    assert tried[0] == 4, "all held-out rows at once, at first"
    assert cut["digest"] == whole["digest"], "training was not touched"
    for name in ("base_eval_loss", "eval_loss"):
        assert cut[name] == pytest.approx(whole[name], abs=1e-5)


@pytest.mark.parametrize("packing", [True, False])
def test_memory_that_runs_out_before_the_training_ends_as_out_of_memory(tune: Tune, packing: bool) -> None:
    sections = settings(max_steps=1, packing=packing, padding_free=packing)
    with memory_for(0, with_gradients=False), pytest.raises(OutOfMemoryFailure, match="Tried to allocate") as failed:
        tune(sections=sections)
    assert failed.value.exit_code == 6
    assert "max_length" in failed.value.hint


def test_a_halved_micro_batch_halves_the_evaluations_batch_too(tune: Tune, capsys: pytest.CaptureFixture[str]) -> None:
    with memory_for(2, with_gradients=True), memory_for(99, with_gradients=False) as tried:
        tune(sections=padded(per_device_eval_batch_size=4))
    assert "going on with 2" in capsys.readouterr().out
    assert tried == [4, 2, 2], "the base, then the adapter"


def test_a_divided_micro_batch_divides_the_evaluations_batch_that_was_asked_for(tune: Tune) -> None:
    with memory_for(99, with_gradients=False) as tried:
        tune(sections=padded(per_device_eval_batch_size=4), micro_batch_divisor=4)
    assert set(tried) == {1}
