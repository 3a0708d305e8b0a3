"""The table that `attn-inject attentions` prints: what can be put in, as the modules themselves have it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from ..errors import AttentionError, nearest
from ..files.cache import cached
from .base import Family
from .registry import build, library_names, resolve

_CHANNELS = 256
_AXES = (1, 2, 3)
FAMILIES: tuple[Family, ...] = tuple(family for family in get_args(Family) if family)
# What an exporter cannot take with the size of the image left open; tests/zoo/test_attentions.py measures them all.
NOT_EXPORTED: dict[str, str] = {}


@dataclass(frozen=True)
class Entry:
    """One attention. `parameters` are those at 256 channels, with the defaults; `axes` the numbers of spatial axes that
    its maps may have.

    `gate_add` and `early_squeeze` are whether these rewrites of `optimize` take it: a gate per channel, and one
    whose pool is linear in the map. `unlike` says how it differs from the library's own of that name.
    """

    name: str
    family: str
    year: int
    paper: str
    summary: str
    parameters: int
    axes: tuple[int, ...]
    gate_add: bool
    early_squeeze: bool
    unlike: str = ""

    @property
    def exports(self) -> bool | None:
        """Whether torch.export and ONNX take it with batch and image size open; None for what nobody has measured."""
        return None if self.name.startswith("timm:") else self.name not in NOT_EXPORTED


def catalogue(family: str | None = None) -> list[Entry]:
    """Every attention of the library, family by family and the oldest first, and then timm's.

    Kept on disk for the installed versions, since counting means importing torch and timm; what this process has
    registered is not there in the next one, and not in the table.

    Raises:
        AttentionError: there is no such family.

    """
    if family is not None and family not in FAMILIES:
        raise AttentionError(f"no family {family!r}{nearest(family, FAMILIES)}: there are {', '.join(FAMILIES)}")
    rows = cached("catalogue", ("torch", "timm"), lambda: [asdict(entry) for entry in _entries()], content=_content())
    entries = [Entry(**{**row, "axes": tuple(row["axes"])}) for row in rows]
    return [entry for entry in entries if family in (None, entry.family)]


def _content() -> str:
    """What the rows are worked out from."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _entries() -> Iterator[Entry]:
    from .timm_made import timm_names, unlike_ours

    ours = [_entry(name) for name in library_names()]
    yield from sorted(ours, key=lambda entry: (FAMILIES.index(entry.family), entry.year))
    for plain in timm_names():
        yield _entry(f"timm:{plain}", unlike_ours(plain) if plain in library_names() else "")


def _entry(name: str, unlike: str = "") -> Entry:
    import torch

    from .gating import ChannelGate

    attention = resolve(name)
    with torch.device("meta"):
        made: dict[int, Any] = {}
        for ndim in _AXES:
            try:
                made[ndim] = build(attention, _CHANNELS, ndim=ndim)
            except AttentionError:
                continue
    module = made.get(2) or next(iter(made.values()))
    gates = isinstance(module, ChannelGate)
    return Entry(
        name=name,
        family=attention.family,
        year=attention.year,
        paper=attention.paper,
        summary=attention.summary,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        axes=tuple(made),
        gate_add=gates,
        early_squeeze=gates and module.pools_linearly,
        unlike=unlike,
    )
