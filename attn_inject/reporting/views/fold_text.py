"""What folding did, in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from ...surgery.folding import Folding
from . import fold_words


def render_folding(folding: Folding) -> Iterator[RenderableType]:
    """The folded blocks, what that changed, and why the others were not."""
    yield Text(fold_words.heading(folding), style="bold")
    for line in fold_words.lines(folding):
        yield Text(line)
    for block, reason in fold_words.kept(folding).rows:
        yield Text(f"not folded: {block}: {reason}", style="dim")
