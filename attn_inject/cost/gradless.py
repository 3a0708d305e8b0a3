"""How a pass is timed without gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch


def without_gradients(
    passes: Sequence[Callable[[], object]], *, says: bool = True
) -> Callable[[], AbstractContextManager[Any]]:
    """`torch.inference_mode`, or `torch.no_grad` for all where one of `passes` does not run within; it `says` so.

    Each runs once: that compiles, picks kernels and grows the allocator. Code may ask for gradients itself, or have
    other threads work, where no inference mode is on.
    """
    try:
        for run in passes:
            with torch.inference_mode():
                run()
    except RuntimeError:
        for run in passes:
            with torch.no_grad():
                run()
    else:
        return torch.inference_mode
    if says:
        said = "timed under torch.no_grad(): the model does not run under torch.inference_mode()"
        warnings.warn(said, UserWarning, stacklevel=2)
    return torch.no_grad
