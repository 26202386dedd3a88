"""What every test stands on: programs start with the signals' own meanings, however pytest itself was started."""

from __future__ import annotations

import signal

# `nohup pytest` and `pytest &` of a script have these ignored, and so would every program that a test starts.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
