"""What a model holds: its parameters, its buffers, and the bytes of a file that has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Holding:
    """Elements and bytes that a module holds; a tensor that several names share counts once.

    `file_bytes` are the bytes of the state dict's tensors, buffers that are not persistent left out; a file's header
    and names come on top.
    """

    parameters: int
    parameter_bytes: int
    buffers: int
    buffer_bytes: int
    file_bytes: int


def holding(module: nn.Module) -> Holding:
    """Count a module's parameters and buffers, in elements and in bytes."""
    parameters, buffers = list(module.parameters()), list(module.buffers())
    saved = {id(value): value for value in module.state_dict(keep_vars=True).values() if isinstance(value, Tensor)}
    return Holding(
        parameters=sum(value.numel() for value in parameters),
        parameter_bytes=_bytes(parameters),
        buffers=sum(value.numel() for value in buffers),
        buffer_bytes=_bytes(buffers),
        file_bytes=_bytes(saved.values()),
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors)
