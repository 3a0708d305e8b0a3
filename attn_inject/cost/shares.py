"""Where the time goes: how long each watched module takes within a forward pass.

Two clock readings around every call of a watched module, nothing else: on CUDA they are events on the stream, read
after the pass, so that nothing waits while it runs. The figures are for comparing modules with one another; the
latency of the whole is measured without them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn

from ..tracing.inputs import Inputs
from .device import Device, event

_FEWEST, _MOST = 3, 30


def module_seconds(
    model: nn.Module, paths: Collection[str], inputs: Inputs, device: Device, seconds: float
) -> Mapping[str, float]:
    """Median seconds per eval-mode forward pass inside each submodule of `paths`, all its calls together.

    Runs at least three passes, then more until `seconds` are over. The model must be in eval mode and on the device.
    """
    marks: dict[str, list[tuple[Any, Any]]] = {path: [] for path in paths}
    handles = [handle for path in paths for handle in _watch(model.get_submodule(path), marks[path], device)]
    samples: dict[str, list[float]] = {path: [] for path in paths}
    try:
        end = perf_counter() + seconds
        passes = 0
        while passes <= _FEWEST or (perf_counter() < end and passes <= _MOST):
            with torch.inference_mode():
                inputs.given_to(model)
            if device.kind == "cuda":
                torch.cuda.synchronize()
            for path in paths:
                if passes > 0:  # the first pass warms up
                    samples[path].append(sum(_between(*pair) for pair in marks[path]))
                marks[path].clear()
            passes += 1
    finally:
        for handle in handles:
            handle.remove()
    return {path: median(values) for path, values in samples.items()}


def _watch(module: nn.Module, marks: list[tuple[Any, Any]], device: Device) -> list[Any]:
    """Hooks that append (entry, exit) to `marks` for every call of `module`."""
    now = _recorded if device.kind == "cuda" else perf_counter
    entries: list[Any] = []
    return [
        module.register_forward_pre_hook(lambda *_: entries.append(now())),
        module.register_forward_hook(_leaving(entries, marks, now)),
    ]


def _leaving(entries: list[Any], marks: list[tuple[Any, Any]], now: Callable[[], Any]) -> Callable[..., None]:
    return lambda *_: marks.append((entries.pop(), now()))


def _recorded() -> torch.cuda.Event:
    mark = event()
    mark.record()
    return mark


def _between(start: Any, end: Any) -> float:
    return float(end - start) if isinstance(start, float) else float(start.elapsed_time(end)) / 1000
