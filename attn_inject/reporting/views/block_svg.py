"""A block's graph as an SVG: one box an operation, top to bottom, what is new in colour.

Every node stands one row below the last of those it reads. Nodes of one row stand side by side, a chain in one column
as long as it can. An edge that passes over rows bends around them on the right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ..data import BlockNode

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 150, 24, 26, 18, 10
_LONGEST = 24


def block_svg(nodes: Sequence[BlockNode], title: str) -> str:
    """Draw the nodes, which are in an order of execution; `title` is for readers who cannot see it."""
    places = _places(nodes)
    columns = 1 + max((column for column, _ in places.values()), default=0)
    rows = 1 + max((row for _, row in places.values()), default=0)
    edges = [(read, node.name) for node in nodes for read in node.reads if read in places]
    bends = sum(_is_long(places, *edge) for edge in edges)
    width = 2 * _MARGIN + columns * (_WIDTH + _GAP_X) + 12 * bends
    height = 2 * _MARGIN + rows * (_HEIGHT + _GAP_Y) - _GAP_Y
    box = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    parts = [f'<svg class="block" role="img" aria-label="{escape(title)}" {box}>']
    bend = 0
    for start, end in edges:
        bend += _is_long(places, start, end)
        parts.append(_edge(places, start, end, columns, bend))
    parts += [_box(node, *_corner(places[node.name])) for node in nodes]
    return "\n".join([*parts, "</svg>"])


def _places(nodes: Sequence[BlockNode]) -> Mapping[str, tuple[int, int]]:
    """(column, row) of every node."""
    places: dict[str, tuple[int, int]] = {}
    taken: set[tuple[int, int]] = set()
    for node in nodes:
        above = [places[read] for read in node.reads if read in places]
        row = 1 + max((place[1] for place in above), default=-1)
        column = min((place[0] for place in above), default=0)
        while (column, row) in taken:
            column += 1
        places[node.name] = (column, row)
        taken.add((column, row))
    return places


def _is_long(places: Mapping[str, tuple[int, int]], start: str, end: str) -> bool:
    return places[end][1] - places[start][1] > 1


def _corner(place: tuple[int, int]) -> tuple[int, int]:
    column, row = place
    return _MARGIN + column * (_WIDTH + _GAP_X), _MARGIN + row * (_HEIGHT + _GAP_Y)


def _edge(places: Mapping[str, tuple[int, int]], start: str, end: str, columns: int, bend: int) -> str:
    (x0, y0), (x1, y1) = _corner(places[start]), _corner(places[end])
    if _is_long(places, start, end):
        right = _MARGIN + columns * (_WIDTH + _GAP_X) - _GAP_X + 12 * bend
        x0, x1, y0, y1 = x0 + _WIDTH, x1 + _WIDTH, y0 + _HEIGHT // 2, y1 + _HEIGHT // 2
        path = f"M{x0} {y0} H{right - 6} q6 0 6 6 V{y1 - 6} q0 6 -6 6 H{x1 + 6}"
        tip = f"M{x1 + 7} {y1 - 4} L{x1} {y1} L{x1 + 7} {y1 + 4} Z"
    else:
        x0, x1, y0 = x0 + _WIDTH // 2, x1 + _WIDTH // 2, y0 + _HEIGHT
        middle = (y0 + y1) // 2
        path = f"M{x0} {y0} C{x0} {middle} {x1} {middle} {x1} {y1 - 6}"
        tip = f"M{x1 - 4} {y1 - 7} L{x1} {y1} L{x1 + 4} {y1 - 7} Z"
    return f'<path class="edge" d="{path}"/><path class="tip" d="{tip}"/>'


def _box(node: BlockNode, x: int, y: int) -> str:
    label = node.label if len(node.label) <= _LONGEST else f"…{node.label[1 - _LONGEST :]}"
    return (
        f'<g class="node {node.mark}"><title>{escape(node.name)}</title>'
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="5"/>'
        f'<text x="{x + _WIDTH // 2}" y="{y + _HEIGHT // 2 + 4}">{escape(label)}</text></g>'
    )
