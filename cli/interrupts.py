"""Ctrl-C ends a command, also where somebody's code swallows it: an import that goes on without what it wanted, a
destructor, a callback out of C.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

INTERRUPTED = 130
AGAIN = 1.0
"""After how many seconds an interrupt that nobody has heeded is raised again: long enough to tidy up meanwhile."""


class Interrupts:
    """Whether there was one, and the end of it: none is raised from then on."""

    seen = False

    def end(self) -> None:
        if _is_main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            _raise_again_after(0)


@contextlib.contextmanager
def heeded() -> Iterator[Interrupts]:
    """Within the block an interrupt is raised again and again, until `end` or the end of the block."""
    found = Interrupts()

    def interrupt(_number: int, _frame: Any) -> None:
        found.seen = True
        _raise_again_after(AGAIN)
        raise KeyboardInterrupt

    # Only the main thread is interrupted, and only where nobody has switched that off (`nohup`, `&` in a script).
    if not _is_main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield found
        return
    alarm = getattr(signal, "SIGALRM", None)
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, alarm) if number is not None}
    try:
        yield found
    finally:
        _raise_again_after(0)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def complain() -> int:
    """Say it in one line; the exit code."""
    # An interrupt within an `exec` of text (how dataclasses are made, so any import) has the interpreter end itself by
    # the signal, caught or not; it forgets that at the next such text.
    exec("")
    print("attn-inject: interrupted", file=sys.stderr)
    return INTERRUPTED


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _raise_again_after(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
