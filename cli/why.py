"""What `sites --why` adds: every add and concat that is no site, equal reasons folded, and the rules they cite."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from attn_inject.sites.reasons import RULES, code_of
from attn_inject.types import block_name

if TYPE_CHECKING:
    from rich.console import RenderableType

    from attn_inject.types import Site, Skipped

# Shapes differ from block to block where the reason is the same.
_SHAPES = re.compile(r", \([\d, ]*\) and \([\d, ]*\)")
_NUMBER = re.compile(r"(\d+)")
_MOST = 8


def reasons(skipped: Sequence[Skipped]) -> Iterable[RenderableType]:
    """The lines and tables to print, in order."""
    if not skipped:
        yield "not taken: nothing"
        return
    folded: dict[tuple[str, str], list[str]] = {}
    for one in skipped:
        folded.setdefault((one.operation, _SHAPES.sub("", one.reason)), []).append(one.block)
    yield f"{len(skipped)} not taken"
    yield _table(
        (f"{len(blocks)} {operation}{'s' if len(blocks) > 1 else ''}", reason, _places(blocks))
        for (operation, reason), blocks in folded.items()
    )
    used = {code_of(one.reason) for one in skipped}
    cited = [(code, rule, "") for code, rule in RULES.items() if code in used]
    if cited:
        yield "the rules that say so"
        yield _table(cited)


def plain_blocks(sites: Sequence[Site], kinds: Sequence[str]) -> str:
    """That there are blocks without a skip add, and how they are asked for."""
    blocks = [site.block for site in sites]
    one = len(blocks) == 1
    return (
        f"{len(blocks)} plain {'block has' if one else 'blocks have'} no skip add where the network's others do; "
        f"--kinds {','.join([*kinds, 'plain'])} takes {'it' if one else 'them'}: {_places(blocks)}"
    )


def _table(rows: Iterable[tuple[str, str, str]]) -> RenderableType:
    """Two columns; the third value of a row stands under the second, and fainter."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 2), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, words, under in rows:
        table.add_row(name, Text.assemble(words, (f"\n{under}", "dim")) if under else words)
    return table


def _places(blocks: Sequence[str]) -> str:
    """The blocks in a line: `layer1.0 … 2` for several in a row, and how often for one that has several."""
    counted = Counter(block_name(block) for block in blocks)
    groups: list[list[str]] = []
    for path in counted:
        if groups and counted[path] == counted[groups[-1][-1]] and _follows(groups[-1][-1], path):
            groups[-1].append(path)
        else:
            groups.append([path])
    named = [_span(group) + _times(counted[group[0]], len(group)) for group in groups]
    more = sum(len(group) for group in groups[_MOST:])
    return ", ".join(named[:_MOST]) + (f" and {more} more" if more else "")


def _times(count: int, blocks: int) -> str:
    return "" if count == 1 else f" ({count} each)" if blocks > 1 else f" ({count})"


def _follows(before: str, path: str) -> bool:
    """Whether the paths differ in one number only, by one."""
    pairs = list(zip(_NUMBER.split(before), _NUMBER.split(path), strict=False))
    differing = [(a, b) for a, b in pairs if a != b]
    if len(differing) != 1 or len(_NUMBER.split(before)) != len(_NUMBER.split(path)):
        return False
    ((a, b),) = differing
    return a.isdigit() and b.isdigit() and int(b) == int(a) + 1


def _span(group: Sequence[str]) -> str:
    if len(group) == 1:
        return group[0]
    first, last = _NUMBER.split(group[0]), _NUMBER.split(group[-1])
    at = next(index for index, (a, b) in enumerate(zip(first, last, strict=True)) if a != b)
    return "".join([*first[: at + 1], " … ", *last[at:]])
