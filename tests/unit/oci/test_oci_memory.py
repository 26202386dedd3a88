"""A large layer goes both ways in little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.memory import PEAK_BYTES
from tests.servers.registry import RegistryServer
from tests.unit.oci.results_folder import write_results

SIZE = 160 << 20
BOUND = 120 << 20

PROGRAM = f"""
import sys
from pathlib import Path
from kaito.oci import Reference, pull, push_adapter

reference = Reference.parse(sys.argv[1])
pushed = push_adapter(reference, Path(sys.argv[2]))
assert pull(reference, Path(sys.argv[3])).digest == pushed.digest
print({PEAK_BYTES})
"""


def test_memory_stays_flat_for_a_large_layer(registry: RegistryServer, repository: str, tmp_path: Path) -> None:
    results = write_results(tmp_path / "results")
    with (results / "adapter_model.safetensors").open("wb") as file:
        file.truncate(SIZE)
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"{registry.host}/{repository}:1", str(results), str(tmp_path / "back")],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert (tmp_path / "back" / "adapter_model.safetensors").stat().st_size == SIZE
    assert int(ended.stdout) < BOUND
