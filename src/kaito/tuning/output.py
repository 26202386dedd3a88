"""`python -m kaito.tuning.output`: claims the folder that the results will go to. The check of a volume output."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kaito.program import run_program
from kaito.tuning.results import claim


def main(argv: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m kaito.tuning.output",
        description="Check that a folder can take the results of a tuning, and claim it for one Workspace.",
        epilog="example: python -m kaito.tuning.output --results /mnt/results --owner default.phi-3",
    )
    parser.add_argument("--results", type=Path, required=True, help="the output folder")
    parser.add_argument("--owner", required=True, metavar="NAMESPACE.NAME", help="the Workspace")
    arguments = parser.parse_args(argv)
    claim(arguments.results, arguments.owner)
    print(f"results will go to {arguments.results}")
    return {"path": str(arguments.results)}


if __name__ == "__main__":
    run_program(main)
