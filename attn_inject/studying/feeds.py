"""What a model is studied on: batches as people have them, gone through once or several times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from ..errors import AttnInjectError, first_line, must_be_whole
from ..tracing.inputs import Inputs, tensors_in

# What `gates` keeps of data that can be gone through only once.
KEPT_BYTES = 32 * 1024**2
# What is kept where no image may come into another part of the data; what is beyond is left out, and said.
MOST_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Batch:
    """What a model is given, and targets where there are any; `unread` is what class of targets is none of ours."""

    inputs: Inputs
    targets: torch.Tensor | None = None
    unread: str = ""

    @property
    def size(self) -> int:
        """How many images there are; none where no tensor has a batch in front."""
        return self.inputs.batch if any(tensor.dim() for tensor in self.inputs.tensors) else 0

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in tensors_in((self.inputs.values, self.targets)))

    def equals(self, other: Batch) -> bool:
        """Whether both hold the same values."""
        ours, theirs = (list(tensors_in((batch.inputs.values, batch.targets))) for batch in (self, other))
        return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))

    @property
    def labels(self) -> torch.Tensor | None:
        """The targets where they are one whole number for each image: (N,)."""
        targets = self.targets
        if targets is None or targets.is_floating_point() or targets.is_complex() or targets.dtype is torch.bool:
            return None
        return targets.flatten() if targets.numel() == self.size else None

    def on(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """The same on a device, floating-point inputs in the type of the model."""
        inputs = self.inputs.map_tensors(lambda x: x.to(device, dtype if x.is_floating_point() else None))
        return Batch(inputs, None if self.targets is None else self.targets.to(device), self.unread)


@dataclass(frozen=True)
class Feed:
    """An iterable of batches with what is known of it.

    `name` describes it to people. `synthetic` is whether it is noise. `classes` is how many classes the targets are of,
    where that may be other than the classes the model was trained on (folders of images). `notes` are for the reader.
    """

    batches: Iterable[Any]
    name: str = "data of the caller's"
    synthetic: bool = False
    classes: int | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what nothing can go through."""
        if isinstance(self.batches, str) or not (
            hasattr(self.batches, "__iter__") or hasattr(self.batches, "__getitem__")
        ):
            raise AttnInjectError(
                f"data must be batches to go through, such as a DataLoader or a list of them; got {self.batches!r}"
            )

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    @property
    def is_single(self) -> bool:
        """Whether it can be gone through only once, as a generator."""
        found = iter(self.batches)
        if found is self.batches:
            return True
        # One that is handed out again may start anew, as a DataLoader's with lasting workers does. Python's own do not.
        return type(found).__module__ in ("builtins", "itertools") and iter(self.batches) is found

    @property
    def is_shuffled(self) -> bool:
        """Whether it gives something else each time that it is gone through, told by what comes first."""
        if self.is_single:
            return False
        one, other = (next(iter(self.first(1)), None) for _ in range(2))
        return one is not None and other is not None and not one.equals(other)

    def first(self, count: int | None) -> Iterator[Batch]:
        """The first `count` batches, all if None.

        Raises:
            AttnInjectError: a count below 1, or something in it that is no batch.

        """
        if count is not None:
            must_be_whole("batches", count)
        return map(as_batch, islice(self.batches, count))


def as_batch(value: Any) -> Batch:
    """A tensor is the inputs; of a tuple, a list or a dict the first value is, and the second the targets.

    Inputs that are a tuple themselves are a model's arguments, and a dict its arguments by name.

    Raises:
        AttnInjectError: it holds no tensor with a batch in front.

    """
    inputs, targets = value, None
    if isinstance(value, (tuple, list, Mapping)):
        parts = list(value.values()) if isinstance(value, Mapping) else list(value)
        inputs, targets = parts[0] if parts else None, parts[1] if len(parts) > 1 else None
        targets = _as_targets(targets) if _are_numbers(targets) else targets
    made = inputs
    if not isinstance(inputs, Inputs):
        made = Inputs(named=dict(inputs)) if isinstance(inputs, Mapping) else Inputs(_tuple(inputs))
    is_read = targets is None or isinstance(targets, torch.Tensor)
    batch = Batch(
        made, targets if isinstance(targets, torch.Tensor) else None, "" if is_read else type(targets).__name__
    )
    if batch.size == 0:
        raise AttnInjectError(
            "a batch of the data must be a tensor of images, or a tuple or dict that begins with one; got a "
            f"{type(value).__name__} without any"
        )
    return batch


def _are_numbers(targets: Any) -> bool:
    """Whether the targets are to be numbers: one, a list, a tuple of them, or an array of another library's."""
    if isinstance(targets, tuple):
        return all(isinstance(each, (int, float)) for each in targets)
    return isinstance(targets, (int, list)) or (hasattr(targets, "__array__") and not isinstance(targets, torch.Tensor))


def _as_targets(targets: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(targets, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise AttnInjectError(f"the targets of a batch are no numbers: {first_line(error)}") from error


def _tuple(inputs: Any) -> tuple[Any, ...]:
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
