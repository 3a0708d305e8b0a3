"""The input shapes that are tried where nobody says which one a model takes."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral

from torch import nn

from ..errors import TraceError

Convolution = nn.modules.conv._ConvNd

_TRIAL_SIZES = (224, 256, 299, 32, 28, 64, 384, 512)
_TRIAL_SIZES_3D = (112, 32, 224, 64)
_TRIAL_SIZES_1D = (1024, 224, 128, 16000)


def first_convolution(model: nn.Module) -> Convolution | None:
    """The convolution that the model holds first."""
    return next((module for module in model.modules() if isinstance(module, Convolution)), None)


def shape_asked(input_size: object) -> tuple[int, ...]:
    """What a caller gives as `input_size`, one number or several, as a tuple.

    Raises:
        TraceError: it is neither.

    """
    sizes = tuple(input_size) if isinstance(input_size, Iterable) else (input_size,)
    if not sizes or any(isinstance(size, bool) or not isinstance(size, Integral) for size in sizes):
        raise TraceError(
            f"input_size must be one whole number, (height, width) or (channels, height, width); got {input_size!r}"
        )
    # numpy's, for one.
    return tuple(map(int, sizes))


def candidate_shapes(
    model: nn.Module, conv: nn.Module | None, input_size: Iterable[int] | None
) -> list[tuple[int, ...]]:
    """Shapes of a batch of two images, the likeliest first.

    `conv` is the convolution that reads the image: it says how many channels and extents an image has. `input_size` is
    (channels, *spatial) or (*spatial) of one image. What the model's configuration says comes first, usual sizes after.
    """
    channels, rank = (conv.in_channels, len(conv.kernel_size)) if isinstance(conv, Convolution) else (3, 2)
    if input_size is not None:
        size = shape_asked(input_size)
        if len(size) == 1 and rank > 1:
            size = size * rank
        return [(2, *(size if len(size) > rank else (channels, *size)))]
    shapes: list[tuple[int, ...]] = []
    configured = _configured_size(model)
    if configured is not None:
        shapes.append((2, *configured))
    for channel in dict.fromkeys((channels, 3, 1)):
        if rank == 3:
            shapes += [(2, channel, frames, s, s) for s in _TRIAL_SIZES_3D for frames in (16, 32)]
        else:
            shapes += [(2, channel, *(s,) * rank) for s in (_TRIAL_SIZES_1D if rank == 1 else _TRIAL_SIZES)]
    return shapes


def _configured_size(model: nn.Module) -> tuple[int, ...] | None:
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        size = config.get("input_size") if isinstance(config, dict) else getattr(config, "input_size", None)
        if size and all(isinstance(v, int) for v in size):
            return tuple(size)
    return None
