"""`python -m kaito.local NAMESPACE/NAME`: one Workspace's engine, as a session leader of its own."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from kaito.local.desired import Unreadable
from kaito.local.engine import Engine, exit_code_of, stop_signals
from kaito.local.home import Key
from kaito.local.lock import AlreadyRunning


def main() -> NoReturn:
    parser = argparse.ArgumentParser(
        prog="python -m kaito.local",
        description="Run one applied Workspace of this machine to its end.",
        epilog="example: python -m kaito.local default/workspace-tuning-phi-3",
    )
    parser.add_argument("workspace", metavar="NAMESPACE/NAME")
    try:
        engine = Engine(Key.parse(parser.parse_args().workspace), waits=True)
        stop_signals(engine)
        seen = engine.run()
    except (AlreadyRunning, Unreadable, KeyError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(exit_code_of(seen))


if __name__ == "__main__":
    main()
