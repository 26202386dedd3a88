"""`python -m kaito.datasets.preflight`: reads and renders every row of the data before anything is trained on it."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaito.failure import DataFailure
from kaito.program import report, run_program

if TYPE_CHECKING:
    from kaito.api.training import TrainingConfig
    from kaito.datasets.files import DataFile
    from kaito.datasets.render import Renderer
    from kaito.datasets.rows import Problem, Row

REPORTED_PROBLEMS = 20

_RESULT_PROBLEMS = 3
_LONGEST_PROBLEM = 180
_REPORT_SECONDS = 0.3

EXAMPLE = """example:
  python -m kaito.datasets.preflight --data data --model model --config training_config.resolved.yaml
"""


@dataclass(slots=True)
class Findings:
    """What was found so far. `lengths`: tokens of each good row, before truncation."""

    rows: int = 0
    bad: int = 0
    truncated: int = 0
    untrained: int = 0
    duplicates: int = 0
    first: list[Problem] = field(default_factory=list)
    lengths: array[int] = field(default_factory=lambda: array("q"))

    def add_problem(self, problem: Problem) -> None:
        self.bad += 1
        if len(self.first) < REPORTED_PROBLEMS:
            self.first.append(problem)
            say(str(problem))

    def add_unreadable(self, problem: Problem) -> None:
        self.rows += 1
        self.add_problem(problem)

    def as_result(self) -> dict[str, Any]:
        lengths = sorted(self.lengths)
        return {
            "rows": self.rows,
            "bad": self.bad,
            "first": [shorten(str(problem)) for problem in self.first[:_RESULT_PROBLEMS]],
            "tokens": {"p50": percentile(lengths, 50), "p95": percentile(lengths, 95), "max": percentile(lengths, 100)},
            "truncated": self.truncated,
            "untrained": self.untrained,
        }


def main(argv: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m kaito.datasets.preflight",
        description="Check every row of the training data: format, chat template, length. Needs no GPU.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the fetched data")
    parser.add_argument("--model", type=Path, required=True, help="folder with the base model's tokenizer files")
    parser.add_argument("--config", type=Path, help="training configuration (YAML); default: no settings")
    options = parser.parse_args(argv)

    from kaito.api.training import TrainingConfig, load_training_config

    config = load_training_config(options.config) if options.config else TrainingConfig()
    return check_data(options.data, options.model, config)


def check_data(data: Path, model: Path, config: TrainingConfig) -> dict[str, Any]:
    """The result of `preflight`. Raises DataFailure if a row cannot be used, ConfigFailure, ModelFailure."""
    from kaito.datasets.files import scan_folder
    from kaito.datasets.settings import build_renderer, select_files
    from kaito.datasets.tokens import has_tokenizer

    listing = scan_folder(data)
    for name, why in listing.skipped:
        if why != "hidden":
            say(f"passed over {name}: {why}")
    files = select_files(listing.files, config.dataset)
    renderer = build_renderer(model, config) if has_tokenizer(model) else None
    if renderer is None:
        say("warning: the model has no tokenizer.json: rows are read, but not rendered and not counted in tokens")
    findings = check_rows(files, renderer, config)
    result = findings.as_result()
    details = {"duplicates": findings.duplicates, "problems": [str(problem) for problem in findings.first]}
    say("KAITO_REPORT " + json.dumps(result | details, ensure_ascii=False))
    require_usable(findings, files)
    return result


def check_rows(files: Sequence[DataFile], renderer: Renderer | None, config: TrainingConfig) -> Findings:
    """Read and render all rows; problems are counted, not raised."""
    from kaito.datasets.formats import parse_row
    from kaito.datasets.read import count_rows, read_rows
    from kaito.datasets.rows import RowError, located
    from kaito.datasets.settings import columns_of

    findings = Findings()
    columns = columns_of(config.dataset)
    seen: set[bytes] = set()
    for row in _reported(read_rows(files, findings.add_unreadable), findings, count_rows(files)):
        try:
            if renderer is None:
                parse_row(row.value, columns)
                continue
            rendered = renderer.render(row.value)
        except RowError as error:
            findings.add_problem(located(error, row.file, row.line))
            continue
        findings.lengths.append(rendered.length)
        findings.truncated += rendered.truncated
        findings.untrained += not any(rendered.trained)
        digest = hashlib.blake2b(rendered.text.encode(), digest_size=16).digest()
        findings.duplicates += digest in seen
        seen.add(digest)
    return findings


def _reported(rows: Iterator[Row], findings: Findings, total: int) -> Iterator[Row]:
    told = 0.0
    for row in rows:
        yield row
        findings.rows += 1
        if time.monotonic() - told >= _REPORT_SECONDS:
            told = time.monotonic()
            report(findings.rows, max(total, findings.rows), "rows")
    report(findings.rows, findings.rows, "rows")


def require_usable(findings: Findings, files: Sequence[DataFile]) -> None:
    """Say what stands out, and raise DataFailure where the data cannot be trained on as they are."""
    if findings.rows == 0:
        raise DataFailure(f"no rows in {', '.join(file.name for file in files[:5])}", "give at least one row")
    if findings.bad:
        first = "; ".join(shorten(str(problem)) for problem in findings.first[:_RESULT_PROBLEMS])
        raise DataFailure(
            f"{findings.bad} of {findings.rows} rows cannot be used, the first: {first}",
            "mend or remove these rows; the log names more of them",
        )
    if findings.untrained == findings.rows:
        hint = "raise TrainingArguments.max_length, or shorten the prompts"
        raise DataFailure("in every row the answer begins behind max_length: nothing would be learnt", hint)
    if findings.truncated:
        say(f"warning: {findings.truncated} rows are longer than max_length and are cut")
    if findings.untrained:
        say(f"warning: {findings.untrained} rows have no trained token left after the cut and teach nothing")
    if findings.duplicates:
        say(f"note: {findings.duplicates} rows repeat an earlier one")


def percentile(ordered: Sequence[int], percent: int) -> int:
    """Nearest-rank percentile of sorted numbers, 0 of none."""
    if not ordered:
        return 0
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(rank, 1) - 1]


def shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_PROBLEM else text[: _LONGEST_PROBLEM - 1] + "…"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_program(main)
