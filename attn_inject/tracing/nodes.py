"""What a graph's nodes know beside what they compute; nothing else reads or writes `node.meta`.

A node knows the call of the module in whose `forward` it runs (its frame), the calls that returned its value, and, once
shapes are known, the value itself as a meta tensor. What surgery and the rewrites put in is marked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

Frame = tuple[str, int]
"""A call of a module: its path (`""` is the model) and the number of the call."""

_BLOCK, _CALL, _VALUE, _RETURNED_BY, _ATTENTION, _GATE = "block", "call", "val", "returned_by", "attention", "gate"
_NAMED, _PLACE, _OWNER, _NUMBERS = "named", "place", "owner", "numbers"
# What pickles; values and nodes stay behind.
_PORTABLE = (_BLOCK, _CALL, _ATTENTION, _RETURNED_BY, _NAMED, _PLACE, _OWNER)


def set_frame(node: fx.Node, frame: Frame) -> None:
    """Say in which call of which module the node runs."""
    node.meta[_BLOCK], node.meta[_CALL] = frame


def frame_of(node: fx.Node) -> Frame:
    """The call of the module in whose `forward` the node runs."""
    return str(node.meta[_BLOCK]), int(node.meta[_CALL])


def block_of(node: fx.Node) -> str:
    """The path of the module in whose `forward` the node runs."""
    return str(node.meta[_BLOCK])


def set_owner(node: fx.Node, frame: Frame) -> None:
    """Say that the node, which runs in a module of nobody's own, is of the call that called it."""
    node.meta[_OWNER] = frame


def owner_of(node: fx.Node) -> Frame:
    """The call of the block that the node is of: mostly that in whose `forward` it runs (`helpers`)."""
    owner: Frame | None = node.meta.get(_OWNER)
    return owner or frame_of(node)


def has_frame(node: fx.Node) -> bool:
    """Whether it is known where the node runs: a rewrite's own nodes may not say."""
    return _BLOCK in node.meta


def set_place(node: fx.Node, place: str) -> None:
    """Say where in the model's code the node was made (`places.place_in_code`)."""
    node.meta[_PLACE] = place


def place_of(node: fx.Node) -> str:
    """Where in the model's code the node was made; empty where that is not known."""
    return str(node.meta.get(_PLACE, ""))


def note_return(node: fx.Node, frame: Frame) -> None:
    """Say that a call returned the node's value; the innermost call says so first."""
    node.meta.setdefault(_RETURNED_BY, []).append(frame)


def returned_by(node: fx.Node) -> tuple[Frame, ...]:
    """The calls that returned the node's value, the innermost first."""
    return tuple(node.meta.get(_RETURNED_BY, ()))


def mark_named(placeholder: fx.Node) -> None:
    """Say that the input is given by its name."""
    placeholder.meta[_NAMED] = True


def is_named(placeholder: fx.Node) -> bool:
    """Whether the input is given by its name."""
    return bool(placeholder.meta.get(_NAMED))


def set_value(node: fx.Node, value: Any) -> None:
    """Keep what the node gives, as `shapes.propagate` found it."""
    node.meta[_VALUE] = value


def has_value(node: fx.Node) -> bool:
    """Whether shapes have been propagated through the node."""
    return _VALUE in node.meta


def value_of(node: fx.Node) -> Any:
    """What the node gives: meta tensors, structures of them, plain values; None where no shapes were propagated."""
    return node.meta.get(_VALUE)


def set_numbers(node: fx.Node, numbers: torch.Tensor | None) -> None:
    """Keep the numbers of a tensor that comes of sizes alone (`numbers_of_sizes`); None takes them away."""
    if numbers is None:
        node.meta.pop(_NUMBERS, None)
    else:
        node.meta[_NUMBERS] = numbers


def numbers_of(node: fx.Node) -> torch.Tensor | None:
    """The numbers of the node's value, on the CPU, where it is a tensor that comes of sizes alone."""
    numbers: torch.Tensor | None = node.meta.get(_NUMBERS)
    return numbers


def leaves_torch(name: str, value: Any) -> bool:
    """Whether an operation of this name, which gives this value, hands numbers to code that no trace sees."""
    return type(value).__module__ == "numpy" or name in _TO_NUMBERS


_TO_NUMBERS = frozenset({"item", "tolist", "__float__", "__int__", "__complex__"})


def mark_attention(node: fx.Node, module: str) -> None:
    """Say that the node belongs to the call of a new attention module."""
    node.meta[_ATTENTION] = module


def is_of_attention(node: fx.Node) -> bool:
    """Whether the node belongs to the call of a new attention module."""
    return _ATTENTION in node.meta


def mark_gate(product: fx.Node, weights: fx.Node) -> None:
    """Say that `product` is a map times the weights of its channels."""
    product.meta[_GATE] = weights


def is_gated(node: fx.Node) -> bool:
    """Whether the node is such a product."""
    return _GATE in node.meta


def inherit(new: fx.Node, old: fx.Node) -> None:
    """Let `new` know all that `old` does, in whose place it stands."""
    new.meta = dict(old.meta)


def portable_meta(node: fx.Node) -> dict[str, Any]:
    """What the node knows that pickles: meta tensors stay behind."""
    return {key: value for key, value in node.meta.items() if key in _PORTABLE}
