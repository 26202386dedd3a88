"""One reader for each format of data files: an open file in, rows and their places out. Which is which: `recognise`."""

from __future__ import annotations

from collections.abc import Callable

from kaito.datasets.rows import Problem, RowError

# No line, record or value of a text file may be longer: memory is bounded by this.
LONGEST_LINE_BYTES = 64 << 20

BOM = b"\xef\xbb\xbf"
INNER_BOM = RowError(
    "a byte order mark inside the file, as of files that were joined",
    "column 1",
    "remove it, and a header that is repeated; or give the files one by one",
)

OnBad = Callable[[Problem], None]
