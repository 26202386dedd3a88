"""GPU machine types and MIG slices."""

from collections import Counter

import pytest

from kaito.catalog import Sku, find_sku, mig_slice_bytes, skus, supports_bfloat16

GIB = 2**30


@pytest.mark.parametrize("sku", skus(), ids=lambda sku: sku.name)
def test_an_entry_has_sane_values(sku: Sku) -> None:
    assert sku.cloud in {"azure", "aws", "arc"}
    assert 1 <= sku.gpus <= 16
    assert 8 * GIB <= sku.gpu_memory_bytes <= 141 * GIB
    assert sku.total_gpu_memory_bytes == sku.gpus * sku.gpu_memory_bytes
    assert (sku.compute_capability is not None) == sku.gpu_model.startswith("NVIDIA")
    assert sku.compute_capability is None or 7.0 <= sku.compute_capability <= 9.0
    assert (sku.cpus is None) == (sku.memory_bytes is None)
    assert find_sku(sku.name.upper()) is sku


def test_no_two_machine_types_share_a_name() -> None:
    assert max(Counter(sku.name.lower() for sku in skus()).values()) == 1


def test_the_tables_of_v0_12_are_complete() -> None:
    modern = Counter(sku.cloud for sku in skus() if sku.compute_capability is None or sku.compute_capability >= 8)
    assert modern == {"azure": 14, "aws": 35, "arc": 8}


@pytest.mark.parametrize(
    ("name", "gpus", "gib", "capability"),
    [
        ("Standard_NC6s_v3", 1, 16, 7.0),
        ("standard_nc12s_v3", 2, 16, 7.0),
        ("Standard_NC24s_v3", 4, 16, 7.0),
        ("Standard_NC24rs_v3", 4, 16, 7.0),
        ("Standard_NC4as_T4_v3", 1, 16, 7.5),
        ("Standard_NC64as_T4_v3", 4, 16, 7.5),
        ("Standard_NC24ads_A100_v4", 1, 80, 8.0),
        ("Standard_ND96isr_H200_v5", 8, 141, 9.0),
        ("g4dn.12xlarge", 4, 16, 7.5),
        ("p3dn.24xlarge", 8, 32, 7.0),
        ("g5.xlarge", 1, 24, 8.6),
    ],
)
def test_a_machine_type_has_its_gpus(name: str, gpus: int, gib: int, capability: float) -> None:
    sku = find_sku(name)
    assert sku is not None
    assert (sku.gpus, sku.gpu_memory_bytes, sku.compute_capability) == (gpus, gib * GIB, capability)


def test_an_unknown_machine_type_is_not_found() -> None:
    assert find_sku("Standard_D4s_v5") is None


def test_bfloat16_begins_with_ampere_and_a_cpu_has_it() -> None:
    assert [supports_bfloat16(capability) for capability in (7.0, 7.5, 8.0, 9.0, None)] == [
        False, False, True, True, True,
    ]  # fmt: skip


def test_a_mig_slice_has_the_memory_of_its_name() -> None:
    assert mig_slice_bytes("3g.40gb") == 40 * GIB
    assert mig_slice_bytes("7g.141gb") == 141 * GIB
    assert mig_slice_bytes("3g.41gb") is None
