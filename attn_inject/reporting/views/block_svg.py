"""A block's graph as an SVG: one box an operation, top to bottom, what is new in colour; `layering` says where."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from ..data import BlockNode
from .layering import Placed, placed

_HEIGHT, _GAP_X, _GAP_Y, _LANE, _MARGIN = 24, 18, 22, 6, 8
# A letter of the widest usual monospaced font at 12 px, and what a box keeps free beside its label.
_LETTER, _PADDING, _NARROWEST, _LONGEST = 7.3, 18, 64, 30


def block_svg(nodes: Sequence[BlockNode], title: str) -> str:
    """Draw the nodes, which are in an order of execution; `title` is for readers who cannot see it."""
    known = {node.name for node in nodes}
    reads = {node.name: [read for read in dict.fromkeys(node.reads) if read in known] for node in nodes}
    labels = {node.name: _label(node.label) for node in nodes}
    widths = {name: max(_LETTER * len(label) + _PADDING, _NARROWEST) for name, label in labels.items()}
    plan = placed(reads, widths, gap=_GAP_X, lane=_LANE)
    width = 2 * _MARGIN + plan.width
    height = 2 * _MARGIN + (1 + max(plan.layers.values(), default=0)) * (_HEIGHT + _GAP_Y) - _GAP_Y
    box = f'width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}"'
    parts = [f'<svg class="block" role="img" aria-label="{escape(title)}" {box}>']
    parts += [_edge(plan, source, name) for name, sources in reads.items() for source in sources]
    parts += [_box(node, labels[node.name], widths[node.name], plan) for node in nodes]
    return "\n".join([*parts, "</svg>"])


def _label(text: str) -> str:
    return text if len(text) <= _LONGEST else f"…{text[1 - _LONGEST :]}"


def _top(layer: int) -> int:
    return _MARGIN + layer * (_HEIGHT + _GAP_Y)


def _edge(plan: Placed, source: str, name: str) -> str:
    """Straight down beside boxes, a bow between layers; a tip where it ends."""
    first, last = plan.layers[source], plan.layers[name]
    xs = [_MARGIN + x for x in (plan.middles[source], *plan.routes[source, name], plan.middles[name])]
    path = f"M{xs[0]:.1f} {_top(first) + _HEIGHT}"
    for layer, (x0, x1) in enumerate(pairwise(xs), start=first):
        y0, y1 = _top(layer) + _HEIGHT, _top(layer + 1) - (6 if layer + 1 == last else 0)
        middle = (y0 + y1) / 2
        path += f" V{y0} C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1}"
    x, y = xs[-1], _top(last)
    tip = f"M{x - 4:.1f} {y - 7} L{x:.1f} {y} L{x + 4:.1f} {y - 7} Z"
    return f'<path class="edge" d="{path}"/><path class="tip" d="{tip}"/>'


def _box(node: BlockNode, label: str, width: float, plan: Placed) -> str:
    middle, y = _MARGIN + plan.middles[node.name], _top(plan.layers[node.name])
    return (
        f'<g class="node {node.mark}"><title>{escape(node.name)}</title>'
        f'<rect x="{middle - width / 2:.1f}" y="{y}" width="{width:.1f}" height="{_HEIGHT}" rx="5"/>'
        f'<text x="{middle:.1f}" y="{y + _HEIGHT // 2 + 4}">{escape(label)}</text></g>'
    )
