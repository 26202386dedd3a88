"""What the rows of data files are: all of them read and checked, their lengths in tokens measured. Memory is bounded.

Up to `SAMPLED_BYTES` of data every row is rendered to tokens. Beyond, every row is still read and held against its
format and the chat template, and lengths come from a sample of about `SAMPLE_ROWS` rows, drawn by a seed; the longest
rows are always measured.
"""

from __future__ import annotations

import marshal
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kaito.datasets.repeats import Place, Repeats, Repetition
from kaito.failure import ConfigFailure, DataFailure, Failure, ModelFailure

if TYPE_CHECKING:
    from kaito.datasets.columns import Columns
    from kaito.datasets.files import DataFile
    from kaito.datasets.formats import Parsed
    from kaito.datasets.render import Rendered, Renderer
    from kaito.datasets.rows import Problem, Row

SAMPLED_BYTES = 1 << 30
SAMPLE_ROWS = 20_000
REPORTED_PROBLEMS = 20
REPORTED_REPEATS = 3

# Beside a sample, a row this much longer than all before it is measured: few are, and the longest is not missed.
_LONGER = 1.02
_KEPT_COLUMNS = 1000  # names of the data's columns, to guess which one was meant


@dataclass(frozen=True, slots=True)
class Sample:
    """Which rows are measured: each with the probability `rate`."""

    seed: int
    rate: float = 1.0

    @property
    def is_everything(self) -> bool:
        return self.rate >= 1.0


def choose_sample(
    files: Sequence[DataFile],
    rows: int,
    seed: int,
    *,
    sampled_bytes: int = SAMPLED_BYTES,
) -> Sample:
    """`rows`: about how many the files have."""
    size = sum(file.unpacked_bytes for file in files)
    if size <= sampled_bytes:
        return Sample(seed)
    return Sample(seed, min(1.0, SAMPLE_ROWS / max(rows, 1)))


@dataclass(slots=True)
class Measured:
    """Rendered rows. `lengths`: tokens of a whole row -> rows; `tokens`: of what is kept of them at max_length."""

    rows: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    truncated: int = 0
    dropped: int = 0
    untrained: int = 0
    tokens: int = 0
    trained: int = 0
    longest: int = 0

    def add(self, rendered: Rendered) -> None:
        trained = sum(rendered.trained)
        self.rows += 1
        self.lengths[rendered.length] += 1
        self.truncated += rendered.truncated
        self.dropped += rendered.dropped
        # The first token is never predicted, so training leaves out a row with a label there alone.
        self.untrained += True not in rendered.trained[1:] and not rendered.dropped
        self.tokens += len(rendered.trained)
        self.trained += trained
        self.longest = max(self.longest, rendered.length)

    def percentile(self, percent: int) -> int:
        """Nearest-rank percentile of the lengths, 0 of none."""
        rank = max(1, -(-self.rows * percent // 100))
        for length in sorted(self.lengths):
            rank -= self.lengths[length]
            if rank <= 0:
                return length
        return 0


@dataclass(slots=True)
class Survey:
    """What was found. `rows` counts the bad ones too; `damaged` are files that could not be read to their end.

    `first` are the first problems, one of each kind, and `alike` counts the rows that have them. `untemplated`: prompts
    and completions in plain text, though the model has a chat template.
    `unrenderable`: why rows could not be rendered at all, where that lies in the model or the configuration.
    `misnamed`: the configuration names a column that no row has.
    """

    sample: Sample
    rows: int = 0
    bad: int = 0
    first: list[Problem] = field(default_factory=list)
    alike: Counter[tuple[str, ...]] = field(default_factory=Counter)
    damaged: list[DataFailure] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    formats: Counter[str] = field(default_factory=Counter)
    untemplated: int = 0
    measured: Measured = field(default_factory=Measured)
    repeated: int = 0
    repetitions: list[Repetition] = field(default_factory=list)
    repeats_are_exact: bool = True
    unrenderable: Failure | None = None
    misnamed: ConfigFailure | None = None

    @property
    def good(self) -> int:
        return self.rows - self.bad

    def of_all(self, measured_rows: int) -> int:
        """A number of measured rows as one of all good rows: the same where all are measured, else an estimate."""
        if self.sample.is_everything or not self.measured.rows:
            return measured_rows
        return round(measured_rows * self.good / self.measured.rows)


def survey_rows(
    files: Sequence[DataFile],
    renderer: Renderer | None,
    columns: Columns | None,
    sample: Sample,
    *,
    on_row: Callable[[int], None] = lambda _: None,
    on_rendered: Callable[[Row, Rendered, Renderer], None] = lambda _row, _rendered, _renderer: None,
) -> Survey:
    """Read all files. What is wrong is counted, never raised: bad rows, damaged files, rows that no model could render.

    Without a renderer rows are checked for their format alone. `on_row` gets the number of rows so far, `on_rendered`
    each rendered row of the sample.
    """
    chance = random.Random(sample.seed)  # noqa: S311  a sample, not a secret
    reading = _Reading(Survey(sample), renderer, columns, on_row, on_rendered, chance)
    for position, file in enumerate(files):
        reading.read(position, file)
    return reading.finish()


@dataclass(slots=True)
class _Reading:
    """One pass over the files, and what it keeps between rows."""

    found: Survey
    renderer: Renderer | None
    columns: Columns | None
    on_row: Callable[[int], None]
    on_rendered: Callable[[Row, Rendered, Renderer], None]
    chance: random.Random
    repeats: Repeats = field(default_factory=Repeats)
    longest_bytes: float = 0.0
    unseen: set[str] = field(default_factory=set)
    seen: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.columns is not None:
            self.unseen = set(self.columns.named.values())

    def read(self, position: int, file: DataFile) -> None:
        from kaito.datasets.read import read_rows

        found = self.found
        before = found.rows
        try:
            for row in read_rows([file], self._unreadable):
                self._check(position, row)
                found.rows += 1
                self.on_row(found.rows)
        except DataFailure as failure:
            found.damaged.append(failure)
        found.files[file.name] = found.rows - before

    def finish(self) -> Survey:
        found = self.found
        found.repeated, found.repetitions = self.repeats.count(REPORTED_REPEATS)
        found.repeats_are_exact = self.repeats.is_exact
        if self.columns is not None and self.unseen:
            found.misnamed = self._misnamed(self.columns.named)
        return found

    def _look_for_columns(self, row: Row) -> None:
        """A row may lack an optional column. One that all rows lack is a mistake in the configuration."""
        self.unseen.difference_update(row.value)
        if len(self.seen) < _KEPT_COLUMNS:
            self.seen.update(dict.fromkeys(row.value))

    def _misnamed(self, named: Mapping[str, str]) -> ConfigFailure:
        from kaito.datasets.refusals import suggest_column

        name, column = next((name, column) for name, column in named.items() if column in self.unseen)
        rule = f"no row has a column '{column}', which DatasetConfig names as {name}"
        return ConfigFailure(rule, suggest_column(column, self.seen))

    def _unreadable(self, problem: Problem) -> None:
        self.found.rows += 1
        self._add_problem(problem)

    def _add_problem(self, problem: Problem) -> None:
        self.found.bad += 1
        if problem.kind in self.found.alike:
            self.found.alike[problem.kind] += 1
        elif len(self.found.first) < REPORTED_PROBLEMS:
            self.found.alike[problem.kind] = 1
            self.found.first.append(problem)

    def _check(self, position: int, row: Row) -> None:
        from kaito.datasets.formats import Completion, parse_row
        from kaito.datasets.rows import RowError, located

        if self.unseen:
            self._look_for_columns(row)
        is_sampled = self.found.sample.is_everything or self.chance.random() < self.found.sample.rate
        try:
            parsed = parse_row(row.value, self.columns)
            content = _content(parsed)
            self._render(row, parsed, size=len(content), is_sampled=is_sampled)
        except RowError as error:
            self._add_problem(located(error, row.file, row.line))
            return
        self.found.formats[parsed.format] += 1
        if isinstance(parsed, Completion) and self.renderer is not None and self.renderer.template is not None:
            self.found.untemplated += 1
        self.repeats.add(content, Place(position, row.line))

    def _render(self, row: Row, parsed: Parsed, *, size: int, is_sampled: bool) -> None:
        """To tokens where the row is measured or may be too long, else as far as the chat template goes. Raises
        RowError."""
        if self.renderer is None:
            return
        is_longest = size > _LONGER * self.longest_bytes
        try:
            if not (is_sampled or is_longest):
                if self.renderer.may_refuse(self.renderer.check(parsed)):
                    self.renderer.render(parsed)
                return
            rendered = self.renderer.render(parsed)
        except (ConfigFailure, ModelFailure) as failure:
            self.found.unrenderable = failure
            self.renderer = None
            return
        if is_longest:
            self.longest_bytes = size
            self.found.measured.longest = max(self.found.measured.longest, rendered.length)
        if is_sampled:
            self.found.measured.add(rendered)
            self.on_rendered(row, rendered, self.renderer)


def _content(parsed: Parsed) -> bytes:
    """What is trained of a row, as bytes: equal for rows that say the same, whatever other columns they have."""
    values: list[Any] = [getattr(parsed, name) for name in parsed.__slots__]
    try:
        return marshal.dumps(values, 2)  # later versions write equal values in more than one way
    except ValueError:  # a date or a decimal number of a parquet file, in a message's further fields
        return repr(values).encode(errors="surrogatepass")
