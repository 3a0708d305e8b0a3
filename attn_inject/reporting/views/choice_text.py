"""A `Choice` in the terminal; everything fits 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from ...studying.choice import Choice
from ...types import counted
from . import choice_words
from .console import narrowed

_STYLES = {"better": "green", "worse": "red"}
# From this width on, there is room for operations.
_WIDE = 100


def render_choice(choice: Choice, *, width: int = 80) -> Iterator[RenderableType]:
    """The sites with what they are worth, the sets with how they do, and what a reader must not miss."""
    yield Text(choice.title, style="bold")
    yield Text(choice_words.subtitle(choice))
    yield Text(choice_words.budget(choice))
    yield Text()
    yield narrowed(counted(len(choice.sites), "site"), choice_words.sites(choice), wide=width >= _WIDE)
    yield Text(choice_words.legend(choice), style="dim")
    yield Text()
    yield narrowed("The same budget, trained anew", choice_words.sets(choice), wide=width >= _WIDE)
    yield Text(choice_words.GAIN, style="dim")
    yield Text()
    for index, note in enumerate(choice_words.in_short(choice)):
        style = _STYLES.get(choice.rows[0].verdict, "yellow") if index else "bold"
        yield Text(note, style=style)
    if (latency := choice_words.latency(choice)) is not None:
        yield Text(latency)
    for note in choice.notes:
        yield Text(f"! {note}", style="yellow")
