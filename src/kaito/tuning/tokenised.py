"""All rows of the data, rendered and tokenised once a run: written to flat files and mapped, not held in memory.

The first process renders; others, and the same run when it goes on after a crash, find the files by what went into
them: data, tokenizer, template, settings, and the version of this program.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from kaito.api.training import TrainingConfig
from kaito.contract import digest_of
from kaito.datasets.files import files_digest
from kaito.datasets.read import count_rows, read_rows
from kaito.datasets.rows import RowError, located, problem_failure
from kaito.datasets.settings import build_renderer, scan_data
from kaito.failure import DataFailure, TemporaryFailure
from kaito.program import report
from kaito.tuning.checkpoints import sha256_of, sync
from kaito.tuning.collectives import LAUNCH_VARIABLE, rank
from kaito.tuning.data import Examples

FOLDER = "rows"
RECORD = "record.json"  # written last
VERDICT = "whole"  # the first process's word, in `FOLDER`: which rows are whole, and in which launch it looked
INPUT_IDS, TRAINED, ENDS = "input_ids.int32", "trained.bool", "ends.int64"
TOKENIZER_FILES = ("*.json", "*.jinja", "*.model", "*.txt")  # and others as small: the weights are not among them
REPORT_SECONDS = 0.3
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Loaded:
    """All rows that teach something, in the order of the files; and what to tell of them."""

    examples: Examples
    chat_template: str | None
    summary: str


def load_examples(
    data: Path, model: Path, config: TrainingConfig, *, folder: Path | None = None, data_digest: str = ""
) -> Loaded:
    """Every row of the data, rendered and tokenised, from the files in `folder` if they are of the same inputs.

    Without `folder` the files have no name and are gone with the process. `data_digest`: of the data, where it is
    known. Raises DataFailure with file and line, ConfigFailure, TemporaryFailure where the files cannot be written.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="kaito-rows-") as temporary:
            write_rows(Path(temporary), data, model, config)
            return map_rows(Path(temporary))
    target = folder / FOLDER / rows_key(model, config, data_digest or files_digest(data))
    verdict, word = target.parent / VERDICT, f"{os.environ.get(LAUNCH_VARIABLE, '')} {target.name}"
    if rank() != 0:  # no barrier: it would time out on large data. If the first process fails, all are ended.
        while _text_of(verdict) != word:
            time.sleep(POLL_SECONDS)
        return map_rows(target)
    damage = find_damage(target)
    with _disk_errors(folder):
        if damage is not None:
            if damage:
                print(f"the tokenised rows are damaged ({damage}): all are written anew", flush=True)
            forget_rows(folder)
            part = target.with_suffix(".part")
            part.mkdir(parents=True)
            write_rows(part, data, model, config)
            part.rename(target)
            sync(target.parent)
        part_of_verdict = verdict.with_suffix(".part")
        part_of_verdict.write_text(word, encoding="utf-8")
        part_of_verdict.replace(verdict)
    return map_rows(target)


def find_damage(folder: Path) -> str | None:
    """What is wrong with the rows written to `folder`: None if nothing is, "" if there are none."""
    if not folder.exists():
        return ""
    try:
        files = json.loads((folder / RECORD).read_bytes())["files"]
        for name in (INPUT_IDS, TRAINED, ENDS):
            if (folder / name).stat().st_size != files[name]["bytes"]:
                return f"{name} is cut short or too long"
            if sha256_of(folder / name) != files[name]["sha256"]:
                return f"{name} has changed"
    except OSError as error:
        return f"{Path(error.filename or folder).name} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError):
        return f"{RECORD} does not tell what they are"
    return None


def forget_rows(folder: Path) -> None:
    """Delete the files. Who has mapped them keeps what they say."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def rows_key(model: Path, config: TrainingConfig, data_digest: str) -> str:
    """A name for the tokenised rows that any change of what goes into them changes."""
    files = sorted({file for pattern in TOKENIZER_FILES for file in model.glob(pattern) if file.name[0] != "."})
    inputs = {
        "version": version("kaito"),
        "data": data_digest,
        "tokenizer": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        "settings": config.model_dump(mode="json", exclude_none=True),
    }
    return digest_of(inputs).removeprefix("sha256:")[:32]


def write_rows(folder: Path, data: Path, model: Path, config: TrainingConfig) -> None:
    """Render every row into the files of `folder`; memory is that of a row, and 8 bytes for each."""
    files = scan_data(data, config.dataset).files
    renderer = build_renderer(model, config)
    about = count_rows(files)
    rows = truncated = dropped = tokens = 0
    told = time.monotonic()
    ends = array("q")
    with (folder / INPUT_IDS).open("wb") as input_ids, (folder / TRAINED).open("wb") as trained:
        for row in read_rows(files):
            try:
                rendered = renderer.render_row(row.value)
            except RowError as error:
                raise problem_failure(located(error, row.file, row.line)) from error
            rows += 1
            truncated += rendered.truncated
            dropped += rendered.dropped
            # The first token of a row is never predicted, so a label there alone teaches nothing.
            if True in rendered.trained[1:]:
                tokens += len(rendered.input_ids)
                ends.append(tokens)
                _append(input_ids, np.array(rendered.input_ids, np.int32))
                _append(trained, np.array(rendered.trained, np.bool_))
            if time.monotonic() - told >= REPORT_SECONDS:
                told = time.monotonic()
                report(rows, max(about, rows), "rows")
    if not ends:
        raise DataFailure(
            f"none of the {rows} rows in {data} has a token to train", "raise max_length, or look at the data"
        )
    (folder / ENDS).write_bytes(ends.tobytes())
    formats = ", ".join(sorted({file.format for file in files}))
    summary = (
        f"Dataset loaded successfully from {data} with file type '{formats}': {rows:,} rows in {len(files)} files,"
        f" {tokens:,} tokens, {truncated:,} rows cut at max_length, {rows - len(ends) - dropped:,} left without an"
        " answer" + (f", {dropped:,} left out for their length" if dropped else "")
    )
    digests = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
        for name in (INPUT_IDS, TRAINED, ENDS)
    }
    record = {"chat_template": renderer.chat_template, "summary": summary, "files": digests}
    (folder / RECORD).write_text(json.dumps(record), encoding="utf-8")
    for name in (INPUT_IDS, TRAINED, ENDS, RECORD):
        sync(folder / name)
    sync(folder)


def map_rows(folder: Path) -> Loaded:
    """The rows that `write_rows` has left in `folder`. Nothing is checked here: see `find_damage`."""
    record = json.loads((folder / RECORD).read_bytes())
    ends = np.fromfile(folder / ENDS, np.int64)
    # Copied on write: torch warns of arrays that cannot be written. Plain arrays: slices of a memmap are slow.
    input_ids = np.memmap(folder / INPUT_IDS, np.int32, mode="c").view(np.ndarray)
    trained = np.memmap(folder / TRAINED, np.bool_, mode="c").view(np.ndarray)
    return Loaded(Examples(input_ids, trained, ends), record["chat_template"], record["summary"])


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _append(file: BinaryIO, values: npt.NDArray[np.generic]) -> None:
    file.write(values.data)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        forget_rows(folder)  # half of them are of no use, and the disk may be full
        raise TemporaryFailure(
            f"the tokenised rows cannot be written to {folder}: {error.strerror}",
            "make room on that volume: five bytes are needed for each token",
            reason="RowsNotWritable",
        ) from error
