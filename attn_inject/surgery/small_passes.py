"""Real passes at a small input size, where a network allows one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..tracing.face import is_of_numbers
from ..tracing.injected import InjectedModule
from ..tracing.inputs import Inputs, arguments_of, fresh, input_values, real_values, tensors_in
from .runs import from_one_seed

TRIAL_EXTENTS = (32, 64, 128, 192)


def doubled(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same in a batch of two of each: statistics need more than one value. A map comes again mirrored."""
    return tuple(torch.cat([x, _mirrored(x)]) if isinstance(x, torch.Tensor) and x.dim() else x for x in inputs)


def _mirrored(x: torch.Tensor) -> torch.Tensor:
    return x.flip(-1) if x.is_floating_point() and x.dim() > 2 else x


def size_of(inputs: tuple[Any, ...]) -> str:
    """The shape of the first tensor, for people."""
    first = next(tensors_in(inputs), None)
    return "no tensor" if first is None else "x".join(str(extent) for extent in first.shape)


def floats_in(outputs: Any) -> list[torch.Tensor]:
    return [tensor for tensor in tensors_in(outputs) if tensor.is_floating_point()]


def what_was_traced(part: InjectedModule) -> tuple[tuple[Any, ...], torch.device] | None:
    """(what a part was traced on, the device that it is on); None where no real pass can be made."""
    inputs = input_values(part.pristine_graph_of("eval"))
    tensors = [*part.parameters(), *part.buffers()]
    if inputs is None or any(tensor.is_meta for tensor in tensors):
        return None
    return inputs, next((tensor.device for tensor in tensors), torch.device("cpu"))


def smallest_pass(
    aliased: nn.Module, inputs: tuple[Any, ...], device: torch.device
) -> tuple[tuple[Any, ...], list[torch.Tensor]]:
    """(inputs, outputs) of a real pass at the smallest size that runs, with a batch of one, keeping the aspect."""
    for shapes in smaller(inputs):
        real = real_values(shapes, device)
        try:
            return real, drawn_alike(aliased, real)
        except Exception:  # Too small, or of another size than the network is made for.
            continue
    real = real_values(inputs, device)
    return real, drawn_alike(aliased, real)


def drawn_alike(aliased: nn.Module, real: tuple[Any, ...]) -> list[torch.Tensor]:
    """What it gives, with the numbers that the original's run draws."""
    inputs = Inputs(fresh(real))
    if isinstance(aliased, InjectedModule):
        # What is fixed may stand between them.
        inputs = Inputs(*arguments_of(aliased.graph_of("eval"), fresh(real)), aliased.fixed)
    with from_one_seed(aliased):
        return floats_in(inputs.given_to(aliased))


def smaller(inputs: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """One image of each size to try, the smallest first, with the numbers beside it; none for several inputs."""
    first, *others = inputs
    if not isinstance(first, torch.Tensor) or first.dim() < 3 or not all(map(is_of_numbers, others)):
        return
    extent = max(first.shape[2:])
    for trial in (*(size for size in TRIAL_EXTENTS if size < extent), extent):
        size = [max(math.ceil(d * trial / extent), 1) for d in first.shape[2:]]
        yield first.new_empty((1, first.shape[1], *size)), *others
