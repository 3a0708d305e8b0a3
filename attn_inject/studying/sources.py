"""A word becomes data: a folder of images, a function of the user's that makes batches, or noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ..errors import AttnInjectError, SourceError
from ..surgery.records import records_of
from ..tracing.injected import InjectedModule
from ..tracing.inputs import Inputs, image, inputs_of
from ..types import Source
from ..zoo.building import users_factory
from ..zoo.parsing import parse_source
from ..zoo.sizes import input_size
from .feeds import Feed
from .images import image_folder

NOISE = "noise"


def feed_of(text: str, model: nn.Module, *, batch: int, source: Source | None = None) -> Feed:
    """The data that `text` names, for a model, `batch` images at once; a patched one knows its source itself.

    Raises:
        AttnInjectError: it names nothing, a folder without images, or a function that does not give batches.

    """
    if text == NOISE:
        return Feed(_Noise(_inputs(model, batch, source)), "normal noise of the model's input size", synthetic=True)
    if text and Path(text).is_dir():
        return image_folder(Path(text), model, source or _source(model), _size(model, source), batch=batch)
    if ":" not in text:
        raise SourceError(
            f"there is no folder {text or 'without a name'}: data is a folder of images, package.module:factory, "
            f"file.py:factory, or {NOISE}"
        )
    source = parse_source(text)
    if source.kind not in ("module", "file"):
        raise SourceError(f"{text} names a model: data is package.module:factory or file.py:factory")
    made = users_factory(source)
    try:
        data: Any = made() if callable(made) and not isinstance(made, Dataset) else made
    except Exception as error:
        raise SourceError(f"{text} made no data: {type(error).__name__}: {error}") from error
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=batch)
    if not hasattr(data, "__iter__"):
        raise SourceError(f"{text} gave a {type(data).__name__}, which has no batches: return a DataLoader")
    return Feed(data, text)


@dataclass(frozen=True)
class _Noise:
    """The same values every time that it is gone through, without end."""

    inputs: Inputs

    def __iter__(self) -> Iterator[Inputs]:
        generator = torch.Generator().manual_seed(0)

        def made(like: torch.Tensor) -> torch.Tensor:
            if like.is_floating_point():
                return torch.randn(like.shape, generator=generator, device="cpu")
            return torch.zeros(like.shape, dtype=like.dtype, device="cpu")

        while True:
            yield self.inputs.map_tensors(made)


def _inputs(patched: nn.Module, batch: int, source: Source | None) -> Inputs:
    """What the whole model was read on; else an image of its usual size."""
    known = inputs_of(patched.pristine_graph_of("eval")) if isinstance(patched, InjectedModule) else None
    return (known or image(*_size(patched, source))).with_batch(batch)


def _size(patched: nn.Module, source: Source | None) -> tuple[int, ...]:
    """(channels, *spatial) that the model was patched at, or made for."""
    for part, record in records_of(patched):
        if not part and record.plan.input_shape is not None:
            return record.plan.input_shape[1:]
    size = input_size(patched, source or _source(patched))
    if size is None:
        raise AttnInjectError("nothing says which inputs this model takes: give data of your own, as file.py:factory")
    return size


def _source(patched: nn.Module) -> Source | None:
    return next((record.plan.source for _, record in records_of(patched) if record.plan.source is not None), None)
