"""`python -m kaito.datasets.preflight`: reads and checks every row of the data before anything is trained on it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaito.program import report, run_program

if TYPE_CHECKING:
    from kaito.api.training import TrainingConfig
    from kaito.datasets.render import Rendered, Renderer
    from kaito.datasets.rows import Row
    from kaito.datasets.survey import Survey

DEFAULT_SEED = 42

_REPORT_SECONDS = 0.3

EXAMPLE = """example:
  python -m kaito.datasets.preflight --data data --model model --config training_config.resolved.yaml
"""


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
    from kaito.datasets.report import build_details, build_result, describe, describe_problems, find_failure

    found = survey_data(data, model, config)
    for line in (*describe_problems(found), *describe(found)):
        say(line)
    result = build_result(found)
    say("KAITO_REPORT " + json.dumps(result | build_details(found), ensure_ascii=False))
    failure = find_failure(found)
    if failure is not None:
        raise failure
    return result


def survey_data(
    data: Path,
    model: Path | None,
    config: TrainingConfig,
    *,
    on_progress: Callable[[int, int], None] = lambda _rows, _about: None,
    on_rendered: Callable[[Row, Rendered, Renderer], None] = lambda _row, _rendered, _renderer: None,
) -> Survey:
    """All rows of the folder (or the one file) `data`, as `config` has them read and rendered.

    Without a model rows are checked and not rendered. Raises DataFailure where no file can be read, ConfigFailure and
    ModelFailure for the settings and the tokenizer; what is wrong with files and rows is in the Survey.
    """
    from kaito.datasets.read import count_rows
    from kaito.datasets.settings import build_renderer, columns_of, scan_data
    from kaito.datasets.survey import choose_sample, survey_rows

    listing = scan_data(data, config.dataset)
    for name, why in listing.skipped:
        if why != "hidden":
            say(f"passed over {name}: {why}")
    columns = columns_of(config.dataset, config.training.dataset_text_field)
    renderer = build_renderer(model, config) if model is not None else None
    about = count_rows(listing.files)
    seed = DEFAULT_SEED if config.training.seed is None else config.training.seed
    found = survey_rows(
        listing.files,
        renderer,
        columns,
        choose_sample(listing.files, about, seed),
        on_row=_now_and_then(lambda rows: _tell(rows, about, on_progress)),
        on_rendered=on_rendered,
    )
    _tell(found.rows, found.rows, on_progress)
    return found


def _tell(rows: int, about: int, on_progress: Callable[[int, int], None]) -> None:
    report(rows, max(about, rows), "rows")
    on_progress(rows, max(about, rows))


def _now_and_then(tell: Callable[[int], None]) -> Callable[[int], None]:
    told = 0.0

    def maybe(rows: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _REPORT_SECONDS:
            told = time.monotonic()
            tell(rows)

    return maybe


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_program(main)
