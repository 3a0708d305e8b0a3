"""How wrong a model's answers are: the loss to train by, and the same loss image by image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_map_only

from ..errors import AttnInjectError, first_line
from ..files.described import described
from ..tracing.inputs import tensors_in
from .feeds import Batch

Loss = Callable[[Any, torch.Tensor], torch.Tensor]


def cross_entropy(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    """Of the first tensor that a model gives: (N, K, ...) and targets (N, ...) or (N, K, ...) of shares -> ().

    Raises:
        AttnInjectError: a single output, or targets that are no shares; of them no cross entropy tells anything.

    """
    first = next(tensors_in(outputs))
    if first.dim() > 1 and first.shape[1] == 1:
        raise AttnInjectError("the model has one output, of which the cross entropy is always 0: pass a loss")
    if targets.shape == first.shape and targets.is_floating_point():
        sums = targets.sum(1)
        if not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
            raise AttnInjectError(
                "targets of the outputs' shape do not add up to 1 for each image, as shares of classes do: pass a loss "
                "(torch.nn.functional.binary_cross_entropy_with_logits for several labels an image)"
            )
    return F.cross_entropy(first, targets)


class Answers:
    """A loss of the caller's, a number for a batch or one for each image; without, the cross entropy."""

    def __init__(self, loss: Loss | None) -> None:
        self._loss = loss or cross_entropy

    @property
    def name(self) -> str:
        """Under which the loss is known."""
        kind = type(self._loss)
        named = self._loss if hasattr(self._loss, "__qualname__") else kind
        return f"{named.__module__}:{named.__qualname__}"

    @property
    def described(self) -> str:
        """What tells the loss from others of its name."""
        return "" if self._loss is cross_entropy else described(self._loss)

    def loss(self, batch: Batch, outputs: Any) -> torch.Tensor:
        """(): the mean over the batch.

        Raises:
            AttnInjectError: the loss does not take them, or gives no number.

        """
        return self._called(outputs, batch.targets).mean()

    def losses(self, batch: Batch, outputs: Any) -> torch.Tensor:
        """(N,): of each image by itself.

        Raises:
            AttnInjectError: as for `loss`, or a value that is not finite.

        """
        n, targets = batch.size, batch.targets
        assert targets is not None
        whole = self._called(outputs, targets)
        found = whole if whole.shape == (n,) else self._one_by_one(outputs, targets, n)
        if not bool(found.isfinite().all()):
            raise AttnInjectError("the loss of an image that was kept aside is no finite number: lower lr")
        return found.double()

    def _one_by_one(self, outputs: Any, targets: torch.Tensor, n: int) -> torch.Tensor:
        def one(index: int) -> torch.Tensor:
            part = tree_map_only(
                torch.Tensor, lambda x: x[index : index + 1] if x.dim() and len(x) == n else x, outputs
            )
            return self._called(part, targets[index : index + 1]).mean()

        return torch.stack([one(index) for index in range(n)])

    def right(self, batch: Batch, outputs: Any) -> torch.Tensor:
        """(N,): whether each image's class is the largest output; nothing where targets are no classes."""
        first, labels = next(tensors_in(outputs)), batch.labels
        return (
            (first.argmax(1) == labels).double()
            if labels is not None and first.dim() == 2
            else torch.zeros(0, device="cpu")
        )

    def _called(self, outputs: Any, targets: Any) -> torch.Tensor:
        try:
            made = self._loss(outputs, targets)
        except (RuntimeError, TypeError, ValueError, IndexError, StopIteration) as error:
            raise AttnInjectError(
                f"the loss does not take the model's outputs and the targets: {first_line(error)}"
            ) from error
        if isinstance(made, torch.Tensor) and made.dim() > 1 and made.numel() == len(made):
            made = made.flatten()
        if not isinstance(made, torch.Tensor) or made.dim() > 1:
            got = (
                f"values of shape {tuple(made.shape)}" if isinstance(made, torch.Tensor) else f"a {type(made).__name__}"
            )
            raise AttnInjectError(
                f"loss(outputs, targets) must give a scalar tensor, or one value for each image, not {got}: take the "
                "mean over all but the first axis"
            )
        return made
