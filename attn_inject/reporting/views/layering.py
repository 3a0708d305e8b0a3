"""Where the boxes of a small acyclic graph stand, in layers from top to bottom, and how its edges run: behind no box.

The method is Sugiyama's (K. Sugiyama, S. Tagawa, M. Toda, "Methods for Visual Understanding of Hierarchical System
Structures", 1981): a node stands one layer below the last it reads; an edge that passes layers gets a place of its own
in each of them, as if a thin box stood there; layers are ordered by the mean place of the neighbours while that lessens
crossings; then chains and long edges, each in one line, move as near to what they join as the widths allow.

It is written out here because a block has a few dozen nodes and nothing fits: grandalf (pure Python) is under the GPL
and had its last release in 2023, igraph and rustworkx are compiled libraries of megabytes, dagre and ELK draw in the
browser, so that nothing could be measured or printed without their scripts, and Graphviz is a program of its own.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from math import inf

_SWEEPS = 12

Slot = tuple[str, int]  # a node in its layer, or the place in that layer of the edges that leave it


@dataclass(frozen=True, slots=True)
class Placed:
    """The middle of every node, its layer, and for every edge the middles of its places in the layers between."""

    middles: Mapping[str, float]
    layers: Mapping[str, int]
    routes: Mapping[tuple[str, str], tuple[float, ...]]
    width: float


def placed(reads: Mapping[str, Sequence[str]], widths: Mapping[str, float], *, gap: float, lane: float) -> Placed:
    """Lay out the nodes of `reads` (what each one reads, in an order of execution) of these `widths`.

    Boxes stand `gap` apart, an edge beside a box takes `lane`. Long edges out of one node share their way.

    >>> block = {"x": [], "conv": ["x"], "add": ["conv", "x"]}
    >>> made = placed(block, dict.fromkeys(block, 60.0), gap=20, lane=10)
    >>> made.layers["add"], made.routes["x", "add"]
    (2, (85.0,))
    """
    layers: dict[str, int] = {}
    for name, sources in reads.items():
        layers[name] = 1 + max((layers[source] for source in sources), default=-1)
    for name in reversed(list(reads)):
        # What nothing leads to stands right above the first that reads it.
        readers = [layers[other] for other, sources in reads.items() if name in sources]
        if readers and not reads[name]:
            layers[name] = min(readers) - 1
    links = _links(reads, layers)
    rows = _ordered(reads, layers, links)
    half = {slot: (widths[slot[0]] if slot[1] == layers[slot[0]] else lane) / 2 for row in rows for slot in row}
    middle = _moved(rows, half, links, layers, gap)
    return Placed(
        middles={name: middle[name, layer] for name, layer in layers.items()},
        layers=layers,
        routes={
            (source, name): tuple(middle[source, layer] for layer in range(layers[source] + 1, layers[name]))
            for name, sources in reads.items()
            for source in sources
        },
        width=max((middle[slot] + half[slot] for row in rows for slot in row), default=0.0),
    )


def _links(reads: Mapping[str, Sequence[str]], layers: Mapping[str, int]) -> dict[tuple[Slot, Slot], None]:
    """From place to place in the layer below, each once."""
    found: dict[tuple[Slot, Slot], None] = {}
    for name, sources in reads.items():
        for source in sources:
            way = [*((source, layer) for layer in range(layers[source], layers[name])), (name, layers[name])]
            found.update(dict.fromkeys(pairwise(way)))
    return found


def _ordered(
    reads: Mapping[str, Sequence[str]], layers: Mapping[str, int], links: Mapping[tuple[Slot, Slot], None]
) -> list[list[Slot]]:
    """The layers with their places from left to right, with the fewest crossings that the sweeps find."""
    order = {name: index for index, name in enumerate(reads)}
    slots = dict.fromkeys([*((name, layers[name]) for name in reads), *(slot for link in links for slot in link)])
    rows: list[list[Slot]] = [[] for _ in range(1 + max(layers.values(), default=-1))]
    for slot in sorted(slots, key=lambda slot: (slot[1] != layers[slot[0]], order[slot[0]])):
        rows[slot[1]].append(slot)
    near = _neighbours(links, above=True), _neighbours(links, above=False)
    best, fewest = [list(row) for row in rows], _crossings(rows, near[1])
    places = {slot: index for row in rows for index, slot in enumerate(row)}
    for sweep in range(_SWEEPS if fewest else 0):
        side = near[sweep % 2]
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wishes = {slot: _mean([places[other] for other in side.get(slot, ())], places[slot]) for slot in row}
            row.sort(key=wishes.__getitem__)
            places.update({slot: index for index, slot in enumerate(row)})
        crossings = _crossings(rows, near[1])
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    return best


def _neighbours(links: Mapping[tuple[Slot, Slot], None], *, above: bool) -> dict[Slot, list[Slot]]:
    found: dict[Slot, list[Slot]] = {}
    for upper, lower in links:
        found.setdefault(lower if above else upper, []).append(upper if above else lower)
    return found


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _crossings(rows: Sequence[Sequence[Slot]], below: Mapping[Slot, Sequence[Slot]]) -> int:
    found = 0
    for upper, lower in pairwise(rows):
        places = {slot: index for index, slot in enumerate(lower)}
        passed: list[int] = []
        for slot in upper:
            ends = [places[other] for other in below.get(slot, ())]
            found += sum(len(passed) - bisect_right(passed, end) for end in ends)
            for end in ends:
                insort(passed, end)
    return found


def _moved(
    rows: Sequence[Sequence[Slot]],
    half: Mapping[Slot, float],
    links: Mapping[tuple[Slot, Slot], None],
    layers: Mapping[str, int],
    gap: float,
) -> dict[Slot, float]:
    """The middle of every place, from 0 on. Chains are straight, and stand where those they join pull them."""
    chain = _chains(rows, links, layers)
    try:
        order, left, right = _distances(rows, chain, half, gap)
    except CycleError:  # two chains that cross: each of their places goes its own way
        chain = {slot: slot for row in rows for slot in row}
        order, left, right = _distances(rows, chain, half, gap)
    joined: dict[Slot, list[Slot]] = {}
    for upper, lower in links:
        if chain[upper] != chain[lower]:
            joined.setdefault(chain[upper], []).append(chain[lower])
            joined.setdefault(chain[lower], []).append(chain[upper])
    at: dict[Slot, float] = {}
    for head in order:
        at[head] = max((at[other] + distance for other, distance in left[head].items()), default=0.0)
    for sweep in range(_SWEEPS):
        for head in reversed(order) if sweep % 2 == 0 else order:
            wish = _mean([at[other] for other in joined.get(head, ())], at[head])
            most = min((at[other] - distance for other, distance in right[head].items()), default=inf)
            least = max((at[other] + distance for other, distance in left[head].items()), default=-inf)
            at[head] = max(least, min(wish, most))
    leftmost = min((at[head] - half[slot] for slot, head in chain.items()), default=0.0)
    return {slot: at[head] - leftmost for slot, head in chain.items()}


def _chains(
    rows: Sequence[Sequence[Slot]], links: Mapping[tuple[Slot, Slot], None], layers: Mapping[str, int]
) -> dict[Slot, Slot]:
    """The first place of the chain that each place is in: long edges, and nodes that have but one another."""
    above, below = _neighbours(links, above=True), _neighbours(links, above=False)
    heads: dict[Slot, Slot] = {}
    for slot in (slot for row in rows for slot in row):
        before = above.get(slot, [])
        is_long = slot[1] > layers[slot[0]] + 1
        alone = len(before) == 1 and (is_long or len(below[before[0]]) == 1)
        heads[slot] = heads[before[0]] if alone else slot
    return heads


Distances = dict[Slot, dict[Slot, float]]


def _distances(
    rows: Sequence[Sequence[Slot]], chain: Mapping[Slot, Slot], half: Mapping[Slot, float], gap: float
) -> tuple[list[Slot], Distances, Distances]:
    """The chains from left to right, and how far each must stay from those on its left and on its right."""
    left: Distances = {head: {} for head in chain.values()}
    right: Distances = {head: {} for head in chain.values()}
    for row in rows:
        for one, other in pairwise(row):
            apart = max(half[one] + gap + half[other], left[chain[other]].get(chain[one], 0.0))
            left[chain[other]][chain[one]] = right[chain[one]][chain[other]] = apart
    return list(TopologicalSorter(left).static_order()), left, right
