"""Where the program starts: nothing but the standard library is imported before an interrupt is heeded."""

from __future__ import annotations

import sys

from .interrupts import complain, heeded


def main() -> None:
    """Import the command line and run it on the process's arguments."""
    with heeded() as interrupts:
        try:
            from .main import main as run

            run()
        except BaseException:
            interrupts.end()
            if not interrupts.seen:
                raise
            sys.exit(complain())
