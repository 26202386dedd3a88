"""Runs a Job's steps in order in one run folder.

The only code that knows of retries, deadlines, stalls, resume, signals and progress; the same in both engines.
"""

from kaito.runner.child import Timing
from kaito.runner.job import run_job

__all__ = ["Timing", "run_job"]
