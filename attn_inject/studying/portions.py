"""Data in three parts that share no image: to train on, to see what each site is worth, and to be judged by.

It is read once and kept, so that no image comes into another part when the data is gone through again, as those of a
loader that shuffles would.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import AttnInjectError
from .feeds import MOST_BYTES, Batch, Feed

# Of four batches two are trained on.
_CYCLE = ("trained", "measured", "trained", "judged")


@dataclass(frozen=True, slots=True)
class Portions:
    """The batches of the three parts; `name` describes the data, `digest` is of its values.

    `classes` is how many classes the targets are of, where that may be other than the model's.
    """

    trained: tuple[Batch, ...]
    measured: tuple[Batch, ...]
    judged: tuple[Batch, ...]
    name: str
    digest: str
    classes: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[int, int, int]:
        """How many are in each part."""
        trained, measured, judged = (
            sum(batch.size for batch in part) for part in (self.trained, self.measured, self.judged)
        )
        return trained, measured, judged


def portions_of(data: Iterable[Any], batches: int | None, tell: Callable[[str, float], None]) -> Portions:
    """Read the data, at most so many batches of it.

    Raises:
        AttnInjectError: fewer than four batches, or one without targets.

    """
    feed = data if isinstance(data, Feed) else Feed(data)
    parts: dict[str, list[Batch]] = {name: [] for name in _CYCLE}
    digest, size, count = hashlib.sha256(), 0, 0
    notes = list(feed.notes)
    for batch in feed.first(batches):
        if batch.targets is None:
            raise AttnInjectError(
                f"{feed.name} has no targets, and what attention is worth is told by a loss: give batches of "
                "(input, target)"
            )
        size += batch.bytes
        if size > MOST_BYTES and count >= len(_CYCLE):
            notes.append(f"the first {count} batches were taken: up to {MOST_BYTES // 1024**3} GiB of data are kept")
            break
        for tensor in (*batch.inputs.tensors, batch.targets):
            put_into(digest, tensor)
        parts[_CYCLE[count % len(_CYCLE)]].append(batch)
        count += 1
        tell(f"reading data: {count} batches", 0.0)
    if count < len(_CYCLE):
        raise AttnInjectError(
            f"choose needs at least four batches of data, and {feed.name} has {count}: two of four are trained on, "
            "one is for what each site is worth, one to be judged by; make batches smaller"
        )
    return Portions(
        **{name: tuple(part) for name, part in parts.items()},
        name=feed.name,
        digest=digest.hexdigest(),
        classes=feed.classes,
        notes=tuple(notes),
    )


def put_into(digest: Any, tensor: torch.Tensor) -> None:
    """Let a digest (of hashlib's) depend on a tensor: its type, shape and values."""
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
