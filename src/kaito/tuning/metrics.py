"""`metrics.jsonl`: one line an optimizer step and one an evaluation; a resumed run continues the same curve."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from kaito import program

WORDS_PER_SECOND = 4.0  # at most so many lines of progress for the runner
PRINT_SECONDS = 5.0


class Metrics:
    """Appends to the file, reports to the runner, and prints a line for a person every few seconds."""

    def __init__(self, path: Path, *, quiet: bool = False) -> None:
        self.path = path
        self.quiet = quiet  # ranks but the first write nothing
        self.tokens = 0
        self._clock = time.monotonic()
        self._tokens_then = 0
        self._reported = self._printed = float("-inf")

    def start(self, tokens: int) -> None:
        """Begin to measure the speed; `tokens`: seen before, by the run that this one goes on from."""
        self.tokens = self._tokens_then = tokens
        self._clock = time.monotonic()

    def truncate_after(self, step: int) -> None:
        """Drop lines of later steps (they come again), and what a crash left of a last line."""
        if self.quiet or not self.path.exists():
            return
        kept = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n") or _step_of(line) > step:
                    break
                kept += len(line)
        with self.path.open("r+b") as file:
            file.truncate(kept)

    def last_loss(self) -> float | None:
        """The newest training loss in the file."""
        losses = [line["loss"] for line in self.lines() if "loss" in line]
        return losses[-1] if losses else None

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def step(
        self, *, step: int, total: int, epoch: float, loss: float, learning_rate: float, grad_norm: float | None
    ) -> None:
        """One line. `grad_norm` is None where float16 overflowed and the step was skipped: JSON has no infinity."""
        now = time.monotonic()
        speed = (self.tokens - self._tokens_then) / max(now - self._clock, 1e-9)
        self._clock, self._tokens_then = now, self.tokens
        self._append(
            {
                "step": step,
                "total_steps": total,
                "epoch": round(epoch, 4),
                "loss": loss,
                "learning_rate": learning_rate,
                "grad_norm": grad_norm,
                "tokens": self.tokens,
                "tokens_per_second": round(speed, 1),
            }
        )
        if self.quiet:
            return
        if now - self._reported > 1 / WORDS_PER_SECOND or step == total:
            self._reported = now
            program.report(step, total, "steps")
        if now - self._printed > PRINT_SECONDS or step == total:
            self._printed = now
            print(
                f"step {step}/{total}  epoch {epoch:.2f}  loss {loss:.4f}"
                f"  learning_rate {learning_rate:.2e}  {speed:.0f} tokens/s",
                flush=True,
            )

    def evaluation(self, *, step: int, loss: float) -> None:
        self._append({"step": step, "eval_loss": loss})

    def pause(self) -> None:
        """Time spent from here on (evaluating, saving) counts for no step's speed; call again to go on."""
        self._paused = time.monotonic()

    def go_on(self) -> None:
        self._clock += time.monotonic() - self._paused

    def _append(self, values: dict[str, Any]) -> None:
        if self.quiet:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **values}) + "\n")


def _step_of(line: bytes) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # no line of ours: it and what follows go
