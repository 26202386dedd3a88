"""Preflight of a large data set: `python benchmarks/preflight.py [--rows 5000000] [--format jsonl|parquet]`.

Writes rows of about 1 KB into a temporary folder (5 million are 5 GB; removed at the end), runs
`python -m kaito.datasets.preflight` on them in a process of its own, and prints rows a second and the most resident
memory that the process had. Every row is read and checked; above 1 GB of data, lengths in tokens are of a sample.
The model is the demo base model, whose tokenizer and chat template come with the package.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

MODEL = Path(str(resources.files("kaito.hub") / "builtin" / "demo"))
TEXT_CHARACTERS = 900
BATCH_ROWS = 10_000
WORDS = ("registry", "images", "layers", "pods", "nodes", "claims", "volumes", "adapters", "models", "rows", "a", "the")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000, metavar="N", help="rows to make (5,000,000)")
    parser.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl", help="of the file (jsonl)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kaito-preflight-") as folder:
        data = Path(folder) / "data"
        data.mkdir()
        need = options.rows * 1100
        if shutil.disk_usage(data).free < need:
            sys.exit(f"about {need / 1e9:.0f} GB of free space are needed in {folder}; TMPDIR names another place")
        size = write_rows(data, options.rows, options.format)
        print(f"{options.rows:,} rows, {size / 1e9:.2f} GB of {options.format}", flush=True)
        seconds, peak, result, log = run_preflight(data)
    print("\n".join(line for line in log.splitlines() if not line.startswith("KAITO_REPORT")))
    print(f"rows {result['rows']:,}, bad {result['bad']}, tokens {result['tokens']}")
    print(f"{seconds:.1f} s, {options.rows / seconds:,.0f} rows/s, peak resident memory {peak / 1e6:.0f} MB")


def write_rows(folder: Path, rows: int, form: str) -> int:
    """Rows that differ, in one file; its size in bytes."""
    path = folder / f"train.{form}"
    if form == "jsonl":
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in build_rows(rows))
        return path.stat().st_size
    import pyarrow as pa
    import pyarrow.parquet as pq

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema([("messages", pa.list_(message))])
    source = build_rows(rows)
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, BATCH_ROWS):
            batch = [next(source) for _ in range(min(BATCH_ROWS, rows - start))]
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
    return path.stat().st_size


def build_rows(count: int) -> Iterator[dict[str, Any]]:
    chance = random.Random(0)
    text = " ".join(chance.choices(WORDS, k=40 * TEXT_CHARACTERS))
    for number in range(count):
        start = chance.randrange(len(text) - TEXT_CHARACTERS)
        middle = start + chance.randrange(100, TEXT_CHARACTERS - 100)
        answer = f"{number}: {text[middle : start + TEXT_CHARACTERS]}"
        turns = (("user", text[start:middle]), ("assistant", answer))
        yield {"messages": [{"role": role, "content": content} for role, content in turns]}


def run_preflight(data: Path, model: Path = MODEL) -> tuple[float, int, dict[str, Any], str]:
    """Seconds, peak resident bytes, result and log of a preflight in a process of its own."""
    result = data.parent / "result.json"
    started = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", "kaito.datasets.preflight", "--data", str(data), "--model", str(model)],
        env={**os.environ, "KAITO_RESULT": str(result)},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if ended.returncode:
        sys.exit(f"preflight ended with {ended.returncode}:\n{ended.stderr}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return seconds, peak, json.loads(result.read_text(encoding="utf-8")), ended.stderr


if __name__ == "__main__":
    main()
