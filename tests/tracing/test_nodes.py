"""What a node knows beside what it computes."""

from __future__ import annotations

import pickle

import torch
from torch import fx

from attn_inject.tracing import nodes


def _node() -> fx.Node:
    return fx.Graph().placeholder("x")


def test_the_call_that_a_node_runs_in() -> None:
    node = _node()
    assert not nodes.has_frame(node)
    nodes.set_frame(node, ("body.0", 3))
    assert nodes.has_frame(node)
    assert (nodes.frame_of(node), nodes.block_of(node)) == (("body.0", 3), "body.0")


def test_the_calls_that_returned_a_value_the_innermost_first() -> None:
    node = _node()
    assert nodes.returned_by(node) == ()
    nodes.note_return(node, ("body.0", 0))
    nodes.note_return(node, ("body", 1))
    assert nodes.returned_by(node) == (("body.0", 0), ("body", 1))


def test_the_value() -> None:
    node = _node()
    assert (nodes.has_value(node), nodes.value_of(node)) == (False, None)
    nodes.set_value(node, None)
    assert nodes.has_value(node)
    value = torch.empty(2, device="meta")
    nodes.set_value(node, value)
    assert nodes.value_of(node) is value


def test_the_marks_of_surgery() -> None:
    product, weights = _node(), _node()
    assert (nodes.is_of_attention(product), nodes.is_gated(product)) == (False, False)
    nodes.mark_attention(product, "body.se")
    assert (nodes.is_of_attention(product), nodes.is_gated(product)) == (True, False)
    nodes.mark_gate(product, weights)
    assert (nodes.is_gated(product), nodes.is_gated(weights)) == (True, False)


def test_a_successor_knows_the_same_and_goes_its_own_way() -> None:
    old, new = _node(), _node()
    nodes.set_frame(old, ("body", 0))
    nodes.set_value(new, 1)
    nodes.inherit(new, old)
    assert (nodes.frame_of(new), nodes.has_value(new)) == (("body", 0), False)
    nodes.set_frame(new, ("head", 1))
    assert nodes.frame_of(old) == ("body", 0)


def test_what_pickles_is_kept() -> None:
    node, weights = _node(), _node()
    nodes.set_frame(node, ("body", 2))
    nodes.note_return(node, ("body", 2))
    nodes.mark_attention(node, "body.se")
    nodes.mark_gate(node, weights)
    nodes.set_value(node, torch.empty(2, device="meta"))
    node.meta = pickle.loads(pickle.dumps(nodes.portable_meta(node)))
    assert (nodes.frame_of(node), nodes.returned_by(node)) == (("body", 2), (("body", 2),))
    assert (nodes.is_of_attention(node), nodes.is_gated(node), nodes.has_value(node)) == (True, False, False)
