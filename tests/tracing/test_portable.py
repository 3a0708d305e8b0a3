"""Graphs that pickle: the same nodes under the same names, however many read one another."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import fx, nn

from attn_inject import inject, optimize
from attn_inject.tracing import nodes
from attn_inject.tracing.portable import PortableGraph

from .. import toys


def _graph() -> fx.Graph:
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y", default_value=None)
    parts = graph.call_method("split", (x, 2), {"dim": 1})
    first = graph.call_function(torch.add, (parts, [x, (y, slice(None, 3))]), {"alpha": 2})
    graph.call_module("head", (first,))
    graph.output({"a": first, "b": [x, None]})
    for node in graph.nodes:
        nodes.set_frame(node, ("body", 1))
        nodes.set_value(node, torch.empty(2, device="meta"))
    return graph


def test_a_graph_comes_back_as_it_was_but_for_values() -> None:
    graph = _graph()
    again = pickle.loads(pickle.dumps(PortableGraph(graph))).graph()
    assert str(again) == str(graph)
    for old, new in zip(graph.nodes, again.nodes, strict=True):
        assert (new.op, new.target, new.name, str(new.args), str(new.kwargs)) == (
            old.op,
            old.target,
            old.name,
            str(old.args),
            str(old.kwargs),
        )
        assert [user.name for user in new.users] == [user.name for user in old.users]
        assert nodes.frame_of(new) == nodes.frame_of(old)
        assert nodes.has_value(old)
        assert not nodes.has_value(new)
    again.lint()


@pytest.mark.slow
@pytest.mark.parametrize("optimized", [False, True])
def test_a_deep_network_pickles(optimized: bool) -> None:
    torch.manual_seed(0)
    body = nn.Sequential(*(toys.Block(torch.add) for _ in range(120)))
    patched = inject(toys.Toy(body), "eca", input_size=(3, 8, 8)).eval()
    model = optimize(patched) if optimized else patched
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))


@pytest.mark.parametrize("function", [torch.nn.functional.max_pool2d, torch.nn.functional.fractional_max_pool2d])
def test_functions_that_are_made_within_others_are_found_by_where_they_stand(function: object) -> None:
    graph = fx.Graph()
    graph.output(graph.call_function(function, (graph.placeholder("x"), 2)))
    again = pickle.loads(pickle.dumps(PortableGraph(graph))).graph()
    assert [node.target for node in again.nodes][1] is function
