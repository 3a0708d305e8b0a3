"""The data flow of small graphs: forks, regions, entries, what derives from what."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ..toys import conv
from .graphs import Net, Pair, Read, names, read


def _run(m: Net, x: torch.Tensor) -> torch.Tensor:
    stem = m.stem(x)
    left = m.l2(torch.relu(m.l1(stem)))
    right = m.r1(stem)
    inner = torch.sigmoid(right) + right
    return m.tail(left + inner)


def _diamond() -> Read:
    """stem -> (l1, relu, l2) and (r1 -> (sigmoid, itself) -> add) -> add_1 -> tail."""
    layers = {name: nn.Conv2d(4, 4, 1) for name in ("stem", "l1", "l2", "tail")}
    return read(Net(_run, **layers, r1=nn.BatchNorm2d(4)), (2, 4, 8, 8))


def test_order_is_that_of_the_graph() -> None:
    net = _diamond()
    assert names(net.flow.order) == names(net.graph.nodes)
    assert list(net.flow.order.values()) == list(range(len(net.flow.order)))


@pytest.mark.parametrize(
    ("node", "idom"),
    [
        ("x", None),
        ("stem", "x"),
        ("l1", "stem"),
        ("relu", "l1"),
        ("r1", "stem"),
        ("sigmoid", "r1"),
        ("add", "r1"),
        ("add_1", "stem"),
        ("tail", "add_1"),
    ],
)
def test_nearest_value_that_all_data_passes(node: str, idom: str | None) -> None:
    net = _diamond()
    found = net.flow.idom(net[node])
    assert (found and found.name) == idom


def test_a_weight_has_no_dominator() -> None:
    net = read(Net(lambda m, x: x * m.scale, scale=torch.ones(1)), (2, 4, 8, 8))
    assert net.flow.idom(net["scale"]) is None


@pytest.mark.parametrize(
    ("nodes", "fork"),
    [
        (("l2",), "l2"),
        (("l2", "add"), "stem"),
        (("add", "l2"), "stem"),
        (("l2", "l1"), "l1"),
        (("l1", "l2"), "l1"),
        (("sigmoid", "r1"), "r1"),
        (("sigmoid", "add"), "r1"),
        (("sigmoid", "add", "relu"), "stem"),
        (("tail", "tail"), "tail"),
    ],
)
def test_fork(nodes: tuple[str, ...], fork: str) -> None:
    net = _diamond()
    found = net.flow.fork(*(net[name] for name in nodes))
    assert found is net[fork]


def test_two_inputs_share_no_fork() -> None:
    net = read(Pair(lambda m, x, y: torch.relu(m.a(x)) + m.b(y), a=conv(4, 4), b=conv(4, 4)), *[(2, 4, 8, 8)] * 2)
    assert net.flow.fork(net["relu"], net["b"]) is None
    assert net.flow.fork(net["b"], net["relu"]) is None
    assert net.flow.idom(net["add"]) is None
    # From nothing on, everything counts.
    assert net.flow.is_nonlinear(net["add"], None)
    assert not net.flow.is_nonlinear(net["b"], None)
    assert names(net.flow.mainline(net["add"], None)) == ["add"]
    assert sorted(names(net.flow.region(net["add"], None))) == ["a", "add", "b", "relu", "x", "y"]


@pytest.mark.parametrize(
    ("node", "fork", "nonlinear", "convolves"),
    [
        ("l1", "stem", False, True),
        ("relu", "l1", True, False),
        ("relu", "stem", True, True),
        ("l2", "relu", False, True),
        ("l2", "l1", True, True),
        ("l2", "l2", False, False),
        ("r1", "stem", False, False),
        ("add", "stem", True, False),
        ("add", "r1", True, False),
        ("add_1", "stem", True, True),
        ("tail", "add_1", False, True),
    ],
)
def test_what_lies_between(node: str, fork: str, nonlinear: bool, convolves: bool) -> None:
    net = _diamond()
    assert net.flow.is_nonlinear(net[node], net[fork]) is nonlinear
    assert net.flow.holds_convolution(net[node], net[fork]) is convolves


def test_mainline() -> None:
    net = _diamond()
    assert names(net.flow.mainline(net["tail"], None)) == ["tail", "add_1", "stem", "x"]
    assert names(net.flow.mainline(net["tail"], net["stem"])) == ["tail", "add_1"]
    assert names(net.flow.mainline(net["stem"], net["stem"])) == []


@pytest.mark.parametrize(
    ("node", "fork", "region"),
    [
        ("add_1", "stem", {"add_1", "l2", "relu", "l1", "add", "sigmoid", "r1"}),
        ("add", "r1", {"add", "sigmoid"}),
        ("l2", "l1", {"l2", "relu"}),
        ("l1", "l1", {"l1"}),
        ("stem", None, {"stem", "x"}),
    ],
)
def test_region(node: str, fork: str | None, region: set[str]) -> None:
    net = _diamond()
    found = names(net.flow.region(net[node], None if fork is None else net[fork]))
    assert len(found) == len(set(found))
    assert set(found) == region


def test_entries_are_the_first_steps_after_the_fork() -> None:
    net = _diamond()
    assert set(names(net.flow.entries(net["add_1"], net["stem"]))) == {"l1", "r1"}
    assert set(names(net.flow.entries(net["add"], net["r1"]))) == {"add", "sigmoid"}
    assert names(net.flow.entries(net["l2"], net["stem"])) == ["l1"]


@pytest.mark.parametrize(
    ("node", "ancestor", "descends"),
    [
        ("l2", "l2", True),
        ("l2", "relu", True),
        ("l2", "x", True),
        ("tail", "sigmoid", True),
        ("add", "l1", False),
        ("l2", "r1", False),
        ("stem", "l1", False),
        ("x", "tail", False),
    ],
)
def test_descends(node: str, ancestor: str, descends: bool) -> None:
    net = _diamond()
    assert net.flow.descends(net[node], net[ancestor]) is descends


def test_counts_stay_finite_in_a_dense_network() -> None:
    """Every layer reads all earlier ones: the ways through it double with every layer."""

    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        values = [x]
        for _ in range(40):
            values.append(torch.relu(sum(values[1:], values[0])))
        return values[-1].neg()

    net = read(Net(run), (2, 4, 8, 8))
    deepest = net["neg"]
    assert 1_000_000 <= max(net.flow._nonlinear.values()) <= 2_000_000
    assert net.flow.is_nonlinear(net["relu_39"], net["x"])
    assert not net.flow.is_nonlinear(deepest, net["relu_39"])
