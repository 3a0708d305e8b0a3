"""Sites that differ in nothing but their block's name, in one row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...cost.amounts import Cost
from ...types import block_name
from ..data import SiteRow


@dataclass(frozen=True, slots=True)
class AlikeRow:
    """One or more equal sites: the first of them, their blocks, and what they add together."""

    first: SiteRow
    blocks: tuple[str, ...]
    added: Cost
    time_share: float | None

    @property
    def count(self) -> int:
        return len(self.blocks)

    @property
    def name(self) -> str:
        """What people read: `span` of the blocks."""
        return span(self.blocks)

    @property
    def module(self) -> str:
        """The new module's path inside its block; its own name where it stands beside that."""
        inside = self.first.module.removeprefix(f"{self.first.block}.")
        return self.first.module.rpartition(".")[2] if self.first.block and inside == self.first.module else inside


def span(blocks: Sequence[str]) -> str:
    """`layer1.0` for one block, `layer1.0 … 2` or `Mixed_5b … 5d` for several that share a beginning."""
    names = [block_name(block) for block in blocks]
    if len(names) == 1:
        return names[0]
    first, last = names[0], names[-1]
    differ = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    start = 1 + max(last.rfind(separator, 0, differ) for separator in "._")
    return f"{first} … {last[start:]}"


def alike(rows: Iterable[SiteRow], *, full: bool = False) -> Sequence[AlikeRow]:
    """Equal rows as one, in order of their first; with `full` every site keeps a row of its own."""
    groups: dict[object, list[SiteRow]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(index if full else _key(row), []).append(row)
    return [_joined(group) for group in groups.values()]


def _joined(group: Sequence[SiteRow]) -> AlikeRow:
    shares = [row.time_share for row in group if row.time_share is not None]
    return AlikeRow(
        first=group[0],
        blocks=tuple(row.block for row in group),
        added=sum((row.added for row in group), Cost()),
        time_share=sum(shares) if len(shares) == len(group) else None,
    )


def _key(row: SiteRow) -> object:
    return (
        row.stage, row.kind, row.channels, row.size, row.calls, row.placement, row.attention,
        repr(sorted(row.options.items())), row.module.rpartition(".")[2], row.replaces is None, row.added,
    )  # fmt: skip
