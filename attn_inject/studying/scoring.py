"""How right a model is, image by image: by class, by a loss of the caller's, or, without targets, by its outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..errors import AttnInjectError
from ..tracing.inputs import tensors_in
from ..types import Measure
from .feeds import Batch

Loss = Callable[[Any, torch.Tensor], torch.Tensor]


class Scoring:
    """One measure for all batches, chosen by the first."""

    def __init__(self, loss: Loss | None = None, classes: int | None = None) -> None:
        self.measure: Measure | None = None
        self.notes: list[str] = []
        if loss is not None and not callable(loss):
            raise AttnInjectError(f"loss must be a function of (outputs, targets), got {loss!r}")
        self._loss = loss
        self._classes = classes

    def losses(self, batch: Batch, outputs: Any, changed: Any) -> torch.Tensor:
        """(N,): what each image loses where the model gives `changed` instead of `outputs`."""
        if self.measure is None:
            self.measure = self._chosen(batch, outputs)
        if self.measure == "outputs":
            return _told(change(outputs, changed))
        lost = self.scores(batch, outputs) - self.scores(batch, changed)
        return _told(lost if self.measure == "accuracy" else -lost)

    def scores(self, batch: Batch, outputs: Any) -> torch.Tensor:
        """(N,): whether each image's answer is right, or its loss; nothing where outputs are only compared."""
        if self.measure is None:
            self.measure = self._chosen(batch, outputs)
        if self.measure == "outputs" or batch.targets is None:
            return torch.zeros(0, device="cpu")
        if self.measure == "accuracy":
            if (labels := batch.labels) is None:
                raise AttnInjectError(
                    f"a batch of {batch.size} images has no class for each: give each image one target"
                )
            answers = _first(outputs)
            return _told((answers.argmax(1) == labels).double().where(~answers.isnan().any(1), torch.nan))
        made = self._loss(outputs, batch.targets) if self._loss else _squared(_first(outputs), batch.targets)
        if not isinstance(made, torch.Tensor) or made.shape != (batch.size,):
            raise AttnInjectError(
                "loss must give one value for each image (reduction='none', then the mean over all but the first axis)"
            )
        return _told(made)

    def _chosen(self, batch: Batch, outputs: Any) -> Measure:
        if batch.targets is None:
            what = f"targets of the data are of the class {batch.unread}" if batch.unread else "the data has no targets"
            if self._loss is not None:
                raise AttnInjectError(f"{what}, and a loss is of tensors: give batches of (input, target)")
            if batch.unread:
                self.notes.append(f"{what}, and not tensors: the outputs are compared")
            return "outputs"
        if self._loss is not None:
            return "loss"
        first = _first(outputs)
        if (labels := batch.labels) is not None and first.dim() == 2:
            if self._classes is not None and self._classes != first.shape[1]:
                self.notes.append(
                    f"{self._classes} classes in the data, {first.shape[1]} outputs of the model: nobody "
                    "knows which is which, so the outputs are compared, not the accuracy"
                )
                return "outputs"
            least, most = int(labels.min()), int(labels.max())
            if least < 0 or most >= first.shape[1]:
                raise AttnInjectError(
                    f"a target is {least if least < 0 else most}, and the model has {first.shape[1]} outputs: "
                    "targets must be the numbers of its classes, or pass a loss"
                )
            return "accuracy"
        if first.shape == batch.targets.shape and batch.targets.is_floating_point():
            self.notes.append("the loss is the mean squared difference of outputs and targets; or pass a loss")
            return "loss"
        self.notes.append(
            "targets are neither classes nor of the outputs' shape: the outputs are compared; or pass a loss"
        )
        return "outputs"


def _told(values: torch.Tensor) -> torch.Tensor:
    """The same; what is no number is refused."""
    if not values.isfinite().all():
        raise AttnInjectError(
            "the model's outputs on the data are not all finite numbers, so that nothing can be told of its gates: "
            "look at the data, or train the model again"
        )
    return values


def _first(outputs: Any) -> torch.Tensor:
    """The model's answer: the first tensor that it gives."""
    return next(tensors_in(outputs))


def _squared(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (
        (outputs.double() - targets.double()).square().flatten(1).mean(1)
        if outputs.dim() > 1
        else (outputs - targets).square()
    )


def change(outputs: Any, changed: Any) -> torch.Tensor:
    """(N,): |changed - outputs| / |outputs|, over all floating-point outputs that are one for each image."""
    pairs = [(a, b) for a, b in zip(tensors_in(outputs), tensors_in(changed), strict=True) if a.is_floating_point()]
    size = pairs[0][0].shape[0] if pairs else 0
    pairs = [
        (a.flatten(1) if a.dim() > 1 else a[:, None], b.flatten(1) if b.dim() > 1 else b[:, None])
        for a, b in pairs
        if a.dim() and len(a) == size
    ]
    difference = sum(((b.double() - a.double()).square().sum(1) for a, b in pairs), torch.zeros((), device="cpu"))
    whole = sum((a.double().square().sum(1) for a, _ in pairs), torch.zeros((), device="cpu"))
    return (difference / whole.clamp(min=1e-30)).sqrt() if size else torch.zeros(0, device="cpu")
