"""The base model's loss on the held-out rows: what the adapter is compared with. Measured once a run, then read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from kaito.tuning.collectives import from_first_rank, rank
from kaito.tuning.evaluation import HeldOutLoss

FILE = "base_evaluation.json"


def measured_once(folder: Path, identity: str, measure: Callable[[], HeldOutLoss | None]) -> HeldOutLoss | None:
    """The base's loss from the record beside the checkpoints, or measured now and recorded."""
    known = from_first_rank(_read(folder / FILE, identity))
    if known is not None:
        return known
    measured = measure()
    if measured is not None and rank() == 0:
        record = {
            "identity": identity,
            "loss": measured.loss,
            "rows": measured.rows,
            "tokens": measured.tokens,
        }
        part = folder / f".{FILE}.part"
        part.write_text(json.dumps(record), encoding="utf-8")
        part.replace(folder / FILE)
    return measured


def _read(file: Path, identity: str) -> HeldOutLoss | None:
    try:
        record = json.loads(file.read_bytes())
        if record["identity"] != identity:
            return None
        return HeldOutLoss(float(record["loss"]), int(record["rows"]), int(record["tokens"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
