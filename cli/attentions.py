"""`attn-inject attentions`: what can be put in, with its size at 256 channels."""

from __future__ import annotations

from .progress import working


def command() -> None:
    """List the attentions, their parameters at 256 channels, and what they are."""
    with working("listing the attentions (once per installed version)"):
        pass
