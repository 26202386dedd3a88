"""The estimate of nodes for serving, held against KAITO v0.12's numbers (nodes.txt)."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.catalog import NodesTooSmallError, estimate_inference_nodes, find_model, find_sku

GIB = 2**30
MACHINES = ((1, 24), (2, 24), (1, 80), (2, 80), (4, 80), (8, 80), (1, 94), (2, 94), (8, 141))
GOLDEN = [
    (repo, [int(count) for count in counts])
    for repo, *counts in (
        line.split() for line in Path(__file__).with_name("nodes.txt").read_text().splitlines() if line[0] != "#"
    )
]


def _nodes(name: str, gpus: int, gib: int, context: int = 2048) -> int:
    model = find_model(name)
    assert model is not None
    return estimate_inference_nodes(
        weight_bytes=model.bytes,
        kv_bytes_per_token=model.kv_bytes_per_token,
        gpus_per_node=gpus,
        gpu_memory_bytes=gib * GIB,
        context=context,
    )


@pytest.mark.parametrize(("repo", "expected"), GOLDEN, ids=[repo for repo, _ in GOLDEN])
def test_a_model_takes_as_many_nodes_as_with_kaito(repo: str, expected: list[int]) -> None:
    assert [_nodes(repo, gpus, gib) for gpus, gib in MACHINES] == expected


@pytest.mark.parametrize(
    ("preset", "instance_type", "context", "expected"),
    [
        ("deepseek-r1-distill-qwen-14b", "Standard_NC24ads_A100_v4", 131072, 1),
        ("deepseek-r1-0528", "Standard_NC80adis_H100_v5", 2048, 5),
        ("gpt-oss-20b", "Standard_NV36ads_A10_v5", 2048, 2),
        ("llama-3.3-70b-instruct", "Standard_NC48ads_A100_v4", 16384, 2),
        ("qwen2.5-coder-32b-instruct", "Standard_NC24ads_A100_v4", 2048, 2),
        ("phi-4-mini-instruct", "Standard_NC24ads_A100_v4", 4096, 1),
    ],
)
def test_an_example_of_kaitos_takes_as_many_nodes(preset: str, instance_type: str, context: int, expected: int) -> None:
    sku = find_sku(instance_type)
    assert sku is not None
    assert _nodes(preset, sku.gpus, sku.gpu_memory_bytes // GIB, context) == expected


@given(
    weights=st.integers(1, 900 * GIB),
    kv_bytes=st.integers(1000, 10**6),
    gpus=st.sampled_from([1, 2, 4, 8]),
    gib=st.sampled_from([16, 24, 40, 80, 94, 141]),
)
def test_more_weights_never_take_fewer_nodes(weights: int, kv_bytes: int, gpus: int, gib: int) -> None:
    def at(weight_bytes: int) -> int:
        return estimate_inference_nodes(
            weight_bytes=weight_bytes, kv_bytes_per_token=kv_bytes, gpus_per_node=gpus, gpu_memory_bytes=gib * GIB
        )

    assert at(weights) <= at(weights + GIB)


def test_a_gpu_without_room_for_the_cache_is_refused_with_what_it_would_need() -> None:
    with pytest.raises(NodesTooSmallError, match=r"24 GiB is too small: 59\.9 GiB.*131072 tokens"):
        _nodes("phi-3-mini-128k-instruct", 1, 24, context=131072)


def test_a_mig_slice_must_hold_the_whole_model() -> None:
    model = find_model("phi-4")
    assert model is not None
    sizes = {"weight_bytes": model.bytes, "kv_bytes_per_token": model.kv_bytes_per_token, "gpus_per_node": 1}
    assert estimate_inference_nodes(**sizes, gpu_memory_bytes=80 * GIB, mig=True) == 1
    with pytest.raises(NodesTooSmallError, match=r"slice with 20 GiB .* needs 38\.\d GiB"):
        estimate_inference_nodes(**sizes, gpu_memory_bytes=20 * GIB, mig=True)
