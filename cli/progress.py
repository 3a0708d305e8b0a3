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


@contextlib.contextmanager
def bar(what: str) -> Iterator[Tell]:
    """`working` for long lists: a bar, the share that is done, and how long the rest will take."""
    if not sys.stderr.isatty():
        yield _silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=2) as progress:
        task = progress.add_task(f"{what} ...", total=1.0)
        yield lambda text, share: progress.update(task, description=text, completed=share)


def _silent(_text: str, _share: float) -> None:
    """Tell nobody."""
