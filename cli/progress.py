"""What is going on, on stderr, for steps that may take longer than a second; silent when nobody watches."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Tell = Callable[[str, float], None]


@contextlib.contextmanager
def working(what: str) -> Iterator[Tell]:
    """Show a spinner beside `what` while the block runs, if stderr is a terminal.

    The block may call the function it is given with a new text and the share that is done, from 0 to 1.
    """
    if not sys.stderr.isatty():
        yield _silent
        return
    from rich.console import Console

    # Redrawn twice a second only: what is measured meanwhile should not feel it.
    with Console(stderr=True).status(f"{what} ...", refresh_per_second=2) as status:
        yield lambda text, share: status.update(f"{text} {share:4.0%}")


def _silent(_text: str, _share: float) -> None:
    """Tell nobody."""
