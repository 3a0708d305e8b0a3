"""The table that `attn-inject attentions` prints."""

from __future__ import annotations

from ..files.cache import cached
from .registry import build, library_names, resolve

_CHANNELS = 256


def catalogue() -> list[tuple[str, int, str]]:
    """(name, parameters at 256 channels, one line) of every attention of the library and of timm.

    Kept on disk for the installed versions, since counting means importing torch and timm; what this process has
    registered is not there in the next one, and not in the table.
    """
    rows = cached("attentions", ("torch", "timm"), _count)
    return [(str(name), int(count), str(line)) for name, count, line in rows]


def _count() -> list[list[str | int]]:
    import torch

    from .timm_made import timm_names

    rows: list[list[str | int]] = []
    with torch.device("meta"):
        for name in [*library_names(), *(f"timm:{plain}" for plain in timm_names())]:
            attention = resolve(name)
            module = build(attention, _CHANNELS)
            rows.append([name, sum(p.numel() for p in module.parameters()), attention.summary])
    return rows
