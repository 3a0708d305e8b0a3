"""Layers of random graphs: nothing overlaps, no edge runs behind a box, chains are straight."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attn_inject.reporting.data import BlockNode
from attn_inject.reporting.views.block_svg import block_svg
from attn_inject.reporting.views.layering import placed

GAP, LANE = 20.0, 6.0


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Up to 14 nodes, each reading some before it, with widths of their own."""
    count = draw(st.integers(1, 14))
    names = [f"n{i}" for i in range(count)]
    reads = {
        name: draw(st.lists(st.sampled_from(names[:i]), unique=True, max_size=4)) if i else []
        for i, name in enumerate(names)
    }
    return reads, {name: draw(st.sampled_from([40.0, 90.0, 200.0])) for name in names}


# The long edge out of n0 crosses the chain from n1: they cannot both be straight.
CROSSED = {"n0": [], "n1": ["n0"], "n2": ["n0"], "n3": ["n1"], "n4": ["n0", "n3"], "n5": ["n0", "n2", "n4"]}


@settings(deadline=None)
@example((CROSSED, dict.fromkeys(CROSSED, 50.0)))
@given(graphs())
def test_boxes_and_edges_keep_apart(graph: tuple[dict[str, list[str]], dict[str, float]]) -> None:
    reads, widths = graph
    made = placed(reads, widths, gap=GAP, lane=LANE)
    layers: dict[int, set[tuple[float, float, str]]] = {}
    for name, layer in made.layers.items():
        layers.setdefault(layer, set()).add((made.middles[name], widths[name] / 2, name))
    for (source, name), route in made.routes.items():
        assert made.layers[source] < made.layers[name]
        assert len(route) == made.layers[name] - made.layers[source] - 1
        for layer, middle in enumerate(route, start=made.layers[source] + 1):
            layers[layer].add((middle, LANE / 2, f"from {source}"))
    for row in layers.values():
        for (left, half, _), (right, other, _) in pairwise(sorted(row)):
            assert right - left >= half + GAP + other - 1e-6
    assert min(left - half for row in layers.values() for left, half, _ in row) == pytest.approx(0, abs=1e-6)
    assert made.width == pytest.approx(max(left + half for row in layers.values() for left, half, _ in row))


def test_branches_are_straight_and_their_join_is_in_the_middle() -> None:
    reads = {
        "x": [],
        "a": ["x"],
        "b": ["x"],
        "b2": ["b"],
        "c": ["x"],
        "c2": ["c"],
        "c3": ["c2"],
        "cat": ["a", "b2", "c3"],
    }
    made = placed(reads, dict.fromkeys(reads, 60.0), gap=GAP, lane=LANE)
    assert made.routes["a", "cat"] == (made.middles["a"],) * 2
    assert made.middles["b"] == made.middles["b2"] == made.routes["b2", "cat"][0]
    assert made.middles["c"] == made.middles["c2"] == made.middles["c3"]
    assert made.middles["x"] == made.middles["cat"] == made.middles["b"]


def test_a_crossing_that_need_not_be_is_taken_out() -> None:
    reads = {"x": [], "a": ["x"], "b": ["x"], "for_b": ["b"], "for_a": ["a"]}
    made = placed(reads, dict.fromkeys(reads, 60.0), gap=GAP, lane=LANE)
    assert (made.middles["a"] < made.middles["b"]) == (made.middles["for_a"] < made.middles["for_b"])


def test_a_constant_stands_above_its_reader() -> None:
    made = placed(
        {"x": [], "k": [], "a": ["x"], "b": ["a"], "c": ["b", "k"]}, dict.fromkeys("xkabc", 60.0), gap=GAP, lane=LANE
    )
    assert made.layers["k"] == made.layers["c"] - 1


def test_a_long_label_keeps_its_end_and_nothing_is_drawn_for_nothing() -> None:
    label = "a.very.long.path.of.modules.to.a.layer.conv1"
    text = block_svg([BlockNode("n", label, "new", ("elsewhere",))], "one")
    assert f">…{label[-29:]}</text>" in text
    assert "edge" not in text
    assert block_svg([], "none").startswith("<svg")
