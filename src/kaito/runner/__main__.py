"""`python -m kaito.runner JOB.json`: the command line of `run_job`."""

from __future__ import annotations

import argparse
import faulthandler
import json
import signal
import sys
from pathlib import Path

from kaito.contract import JobFile, from_json
from kaito.failure import ExitCode
from kaito.program import die_with_parent
from kaito.runner.child import Timing
from kaito.runner.job import conclude, run_job
from kaito.runner.termination import JobEnd

EPILOG = """\
exit codes: 0 done; 2 to 7, 75, 128+n: the failed step's; 75 also if the run folder is locked; 143 stopped by SIGTERM

example:
  python -m kaito.runner job.json --folder ~/.kaito/runs/default/phi --serve 127.0.0.1:0
"""


def main(argv: list[str]) -> int:
    timing = Timing()
    parser = argparse.ArgumentParser(
        prog="python -m kaito.runner",
        description="Runs the steps of one Job in order in its run folder, with retries, deadlines and resume.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", type=Path, metavar="JOB.json", help="one attempt at a Job")
    parser.add_argument("--folder", type=Path, help="the run folder (default: the one that JOB.json names)")
    parser.add_argument(
        "--serve", metavar="HOST:PORT", help="serve GET /progress and /metrics; port 0 takes a free one"
    )
    parser.add_argument(
        "--termination-log", type=Path, metavar="PATH", help="default: termination.json in the run folder"
    )
    parser.add_argument(
        "--grace-seconds", type=float, default=timing.grace_seconds, help="from SIGTERM to SIGKILL (120)"
    )
    parser.add_argument(
        "--backoff-seconds", type=float, default=timing.backoff_seconds, help="first pause (5), then doubled"
    )
    options = parser.parse_args(argv)
    die_with_parent()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    try:
        job_file = from_json(JobFile, json.loads(options.job.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else str(error).replace("\n", "; ")
        end = JobEnd(ExitCode.CONFIG, "", "JobInvalid", f"{options.job} cannot be read: {cause}")
        return conclude(end, options.termination_log, whole=False)
    return run_job(
        job_file,
        options.folder or Path(job_file.run_folder),
        timing=Timing(backoff_seconds=options.backoff_seconds, grace_seconds=options.grace_seconds),
        serve=options.serve,
        termination_log=options.termination_log,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
