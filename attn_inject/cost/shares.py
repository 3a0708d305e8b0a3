"""Where the time goes: how long each watched module takes within a forward pass.

Two clock readings around every call of a watched module, nothing else: on CUDA they are events on the stream, read
after the pass, so that nothing waits while it runs. The figures are for comparing modules with one another; the
latency of the whole is measured without them. A share that the passes do not agree on is not given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn

from ..tracing.inputs import Inputs
from .device import Device, event
from .gradless import without_gradients
from .samples import CONFIDENCE, median_interval

_FEWEST, _MOST = 3, 30


@dataclass(frozen=True, slots=True)
class Share:
    """One module's seconds per pass, and its percentage of all modules' together; None where that is not resolved."""

    seconds: float
    percent: float | None


def shares(samples: Mapping[str, Sequence[float]]) -> Mapping[str, Share]:
    """What the passes say of each module, from its seconds in each pass.

    Within one pass a module's share of the sum is free of the machine's pace. It is resolved where the interval of its
    median over the passes is sure to 95 %, and no wider than the share itself.
    """
    sums = [sum(each) for each in zip(*samples.values(), strict=True)]
    total = sum(median(values) for values in samples.values())
    found = {}
    for path, values in samples.items():
        seconds = median(values)
        parts = [value / whole for value, whole in zip(values, sums, strict=True) if whole > 0]
        if not parts or total <= 0:
            found[path] = Share(seconds, None)
            continue
        interval = median_interval(parts)
        sure = interval.confidence >= CONFIDENCE and interval.high - interval.low <= abs(interval.median)
        found[path] = Share(seconds, 100 * seconds / total if sure else None)
    return found


def module_seconds(
    model: nn.Module, paths: Collection[str], inputs: Inputs, device: Device, seconds: float
) -> Mapping[str, list[float]]:
    """Seconds inside each submodule of `paths`, all its calls together, in each of several eval-mode forward passes.

    Runs at least three passes, then more until `seconds` are over. The model must be in eval mode and on the device.
    """
    # The race of the whole models has said it.
    within = without_gradients([lambda: inputs.given_to(model)], says=False)
    marks: dict[str, list[tuple[Any, Any]]] = {path: [] for path in paths}
    handles = [handle for path in paths for handle in _watch(model.get_submodule(path), marks[path], device)]
    samples: dict[str, list[float]] = {path: [] for path in paths}
    try:
        end = perf_counter() + seconds
        passes = 1  # the one before warms up
        while passes <= _FEWEST or (perf_counter() < end and passes <= _MOST):
            with within():
                inputs.given_to(model)
            if device.kind == "cuda":
                torch.cuda.synchronize()
            for path in paths:
                samples[path].append(sum(_between(*pair) for pair in marks[path]))
                marks[path].clear()
            passes += 1
    finally:
        for handle in handles:
            handle.remove()
    return samples


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
