from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.tuning.tiny_models import settings, write_config, write_data, write_model


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small gain nothing from a second thread, and beside a busy neighbour it costs a hundredfold."""
    import torch

    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def falcon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "falcon", kind="falcon")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def tune(tmp_path: Path, llama: Path, data: Path) -> Callable[..., dict[str, Any]]:
    """Train in this process. `name`: of the run's folder; everything else overrides the request."""

    def run(name: str = "run", sections: dict[str, dict[str, Any]] | None = None, **over: Any) -> dict[str, Any]:
        from kaito.tuning.train import Request, train

        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return train(
            Request(
                **{
                    "config": write_config(folder / "config.yaml", sections or settings()),
                    "data": data,
                    "model": llama,
                    "checkpoints": folder / "checkpoints",
                    "results": folder / "results",
                    "metrics": folder / "metrics.jsonl",
                    "repo": "acme/tiny",
                    "revision": "0" * 40,
                    **over,
                }
            )
        )

    return run
