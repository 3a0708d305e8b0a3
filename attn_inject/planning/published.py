"""Where an attention's paper has it, if that is elsewhere."""

from __future__ import annotations

from dataclasses import replace

from ..attention.registry import resolve
from .choices import Choices


def as_published(choices: Choices) -> Choices | None:
    """The same with the attention in the place of convolutions, for one that its paper made for that.

    None where it stands there already, and for attentions that only gate, nobody's paper has, or are none.
    """
    if choices.placement == "replace" or choices.attention == "none":
        return None
    attention = resolve(choices.attention)
    return replace(choices, placement="replace") if attention.fits_convolutions and attention.paper else None
