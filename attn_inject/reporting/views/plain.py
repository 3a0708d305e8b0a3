"""What is rendered for a terminal, as plain text."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, RenderableType


def plain_text(parts: Iterable[RenderableType], *, width: int = 80) -> str:
    """The parts one below the other, without colours and trailing blanks."""
    console = Console(width=width, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"
