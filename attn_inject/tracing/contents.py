"""The tensors in a value of any kind: those that it holds, as what parts, and which of them were written."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import fields, is_dataclass
from types import FunctionType, MemberDescriptorType
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from .values import to_meta

# How deep a tensor may lie in what a module gives.
LEVELS = 4
Versions = Sequence[tuple[torch.Tensor, int | None]]


def tensors_given(structure: Any) -> list[torch.Tensor]:
    """The tensors among an operation's arguments or results."""
    return [part for part in tree_leaves(structure) if isinstance(part, torch.Tensor)]


def versions(given: Any) -> Versions:
    """The tensors that something is given, each with how often it has been written."""
    return [(tensor, _version(tensor)) for tensor in tensors_given(given)]


def changed(before: Versions) -> list[torch.Tensor]:
    """What was written into since. Inference tensors do not say."""
    return [tensor for tensor, version in before if _version(tensor) != version]


def unchanged(before: Versions) -> set[int]:
    """The ids of those that were surely not."""
    return {id(tensor) for tensor, version in before if version is not None and _version(tensor) == version}


def memory_of(tensor: torch.Tensor) -> int | None:
    """What all views of a tensor's memory have in common; None for kinds that have no such memory (sparse ones)."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None


def by_another_name(result: Any, before: Versions) -> Any:
    """What a call gives, as another object in the same memory where it gave back what it was given, as it was.

    Else whoever reads the one would seem to read the other: a shortcut through an Identity, and the block's input.
    """
    is_plain = type(result) is torch.Tensor and result.layout is torch.strided and not result.is_quantized
    return result.view_as(result) if is_plain and id(result) in unchanged(before) else result


def _version(tensor: torch.Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def shapes(value: Any) -> Any:
    """`to_meta`; a tensor whose kind has no shape (nested, quantized) is a tensor still, but no map."""
    try:
        return to_meta(unpacked(value))
    except (NotImplementedError, RuntimeError):
        return torch.empty(0, device="meta")


def unpacked(structure: Any) -> Any:
    """The same with plain tuples in the place of those whose class checks what it is made of (`PackedSequence`)."""
    kind = type(structure)
    if kind is dict:
        return {key: unpacked(part) for key, part in structure.items()}
    if kind in (tuple, list):
        return kind(map(unpacked, structure))
    checks = isinstance(structure, tuple) and hasattr(kind, "_fields") and "__new__" in vars(kind)
    return tuple(structure) if checks and "_fields" not in vars(kind) else structure


def read_out(result: Any) -> Any:
    """What a model gives, with lists in the place of iterators: the code of a generator runs when it is read."""
    return tree_map(lambda part: list(part) if isinstance(part, Iterator) else part, result)


def tensors_held(value: Any, levels: int = LEVELS) -> Iterator[torch.Tensor]:
    """The tensors in a structure of any kind."""
    if isinstance(value, torch.Tensor):
        yield value
    elif levels:
        for _, _, part in parts(value):
            yield from tensors_held(part, levels - 1)


def parts(value: Any) -> Iterator[tuple[Callable[..., Any], Any, Any]]:
    """What a value holds, each part with the function and the key that take it."""
    if isinstance(value, (tuple, list, deque, ValuesView)):
        yield from ((operator.getitem, index, part) for index, part in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        # By what they hold: two runs of one model give two orders.
        yield from ((operator.getitem, index, part) for index, part in enumerate(sorted(value, key=_order)))
    elif isinstance(value, Mapping):
        yield from ((operator.getitem, key, part) for key, part in value.items())
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((getattr, each.name, getattr(value, each.name)) for each in fields(value))
    elif type(getattr(value, "__dict__", None)) is dict and not isinstance(value, (type, nn.Module, FunctionType)):
        yield from ((getattr, name, part) for name, part in vars(value).items())
        yield from _in_slots(value)
    elif not isinstance(value, type):
        yield from _in_slots(value)


def _in_slots(value: Any) -> Iterator[tuple[Callable[..., Any], Any, Any]]:
    yield from ((getattr, name, slot.__get__(value)) for name, slot in filled_slots(value))


def filled_slots(value: Any) -> Iterator[tuple[str, MemberDescriptorType]]:
    """The attributes that `__slots__` of somebody's classes have places for, of those that `value` has."""
    for kind in type(value).__mro__:
        for name, slot in vars(kind).items() if vars(kind).get("__slots__") else ():
            if isinstance(slot, MemberDescriptorType) and hasattr(value, name):
                yield name, slot


def _order(part: Any) -> tuple[Any, ...]:
    if not isinstance(part, torch.Tensor):
        return 0, repr(part)
    return 1, part.shape, [] if part.is_meta else part.detach().flatten().tolist()
