"""The input that a model was made for, as far as the model or its zoo says."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from torch import nn

from ..types import Source

# What is usual for each dimension when nothing says otherwise: a sequence, an ImageNet crop, a Kinetics clip.
_USUAL = {1: (1024,), 2: (224, 224), 3: (16, 112, 112)}


def input_size(model: nn.Module, source: Source | None = None) -> tuple[int, ...] | None:
    """(channels, *spatial) of one input, without the batch; None for a model without convolutions.

    The first that is known: what the model's own configuration says (timm's `pretrained_cfg`, an `image_size`
    attribute), what torchvision evaluates its weights for `source` at (without a source: for the model's file, if they
    all agree), what is usual for the convolutions' dimension. The channels are those of the first convolution.
    """
    first = next((m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd)), None)
    if first is None:
        return None
    dimension = len(first.kernel_size)
    spatial = _configured(model) or _torchvision_crop(model, source)
    if spatial is None:
        return (first.in_channels, *_USUAL[dimension])
    frames = _USUAL[3][:1] if dimension == 3 else ()
    return (first.in_channels, *frames, *spatial)


def _configured(model: nn.Module) -> tuple[int, int] | None:
    """What the model's attributes say of its height and width."""
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        size = config.get("input_size") if isinstance(config, dict) else getattr(config, "input_size", None)
        if size is not None and len(size) == 3:
            return (int(size[1]), int(size[2]))
    size = getattr(model, "image_size", None)
    return (size, size) if isinstance(size, int) else None


def _torchvision_crop(model: nn.Module, source: Source | None) -> tuple[int, int] | None:
    """The one size that torchvision evaluates these weights at, if they are its own and it is one."""
    if source is not None and source.kind == "torchvision":
        from torchvision.models import get_model_weights

        return _agreed([get_model_weights(source.name)])
    file = type(model).__module__
    if not file.startswith("torchvision.models."):
        return None
    from torchvision.models import WeightsEnum

    own = [c for c in vars(sys.modules[file]).values() if isinstance(c, type) and c.__module__ == file]
    return _agreed(c for c in own if issubclass(c, WeightsEnum))


def _agreed(weights: Iterable[Any]) -> tuple[int, int] | None:
    sizes = {_size(entry.DEFAULT.transforms) for entry in weights if len(entry)}
    return sizes.pop() if len(sizes) == 1 else None


def _size(transforms: Any) -> tuple[int, int] | None:
    """The crop of a preset such as `partial(ImageClassification, crop_size=224)`, or what it resizes to without one."""
    settings = getattr(transforms, "keywords", {})
    size = settings.get("crop_size", settings.get("resize_size"))
    if isinstance(size, int):
        return (size, size)
    return (size[0], size[1]) if isinstance(size, (tuple, list)) and len(size) == 2 else None
