"""`attn-inject compare MODEL -a se -a eca`: several attentions, or placements, on one model, side by side."""

from __future__ import annotations

from . import options


def command(model: options.Model) -> None:
    """Compare attentions on a model."""
