"""The measured part of a report: both models timed in turns, and the time inside each new module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..cost.counting import count
from ..cost.latency import PAIRS, SHARES_PART, BenchSettings, Contest, Progress, Race
from ..cost.shares import module_seconds
from ..errors import AttnInjectError
from ..tracing.inputs import Inputs
from ..types import Insertion
from .data import Speed, Task
from .memory import step_memory
from .settings import ReportSettings


def bench_settings(settings: ReportSettings) -> BenchSettings:
    """What to run for a report.

    Raises:
        AttnInjectError: a dtype that is no floating-point type.

    """
    return BenchSettings(
        device=settings.device,
        dtype=None if settings.dtype is None else _floating(settings.dtype),
        batch=settings.batch,
        channels_last=settings.channels_last,
        compile=settings.compile,
        training=settings.training,
        seconds=settings.bench_seconds,
    )


def _floating(name: str) -> torch.dtype:
    found = getattr(torch, {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(name, name), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise AttnInjectError(f"{name!r} is not a floating-point type; use float32, bfloat16 or float16")
    return found


@dataclass(frozen=True, slots=True)
class Speeds:
    """The races that were run, and seconds per batch inside each new module, less those in what it replaces."""

    races: tuple[Speed, ...]
    modules: Mapping[str, float]


def measure(
    original: nn.Module,
    patched: nn.Module,
    inputs: Inputs,
    insertions: Sequence[Insertion],
    settings: BenchSettings,
    progress: Progress | None = None,
) -> Speeds:
    """Time both models on batches of `inputs`. Raises `AttnInjectError` where there is nothing to run or nowhere to."""
    if any(value.is_meta for model in (original, patched) for value in model.parameters()):
        raise AttnInjectError("a model on the meta device has no weights to run with; use bench=False")
    try:
        contest = Contest(original, patched, inputs, settings)
        races = [_speed(contest, contest.inference(progress), "inference")]
        modules = _module_seconds(contest, insertions)
        if settings.training:
            races.append(_speed(contest, contest.training(progress), "training step"))
    except torch.OutOfMemoryError as error:
        raise AttnInjectError(
            "both models and their batch do not fit into the device's memory; use a smaller batch"
        ) from error
    return Speeds(tuple(races), modules)


def _speed(contest: Contest, race: Race, task: Task) -> Speed:
    settings = contest.settings
    floor_bytes = bandwidth = None
    if task == "inference":
        before, after = (count(model, contest.inputs).total.traffic for model in contest.models)
        floor_bytes, bandwidth = after - before, contest.device.bandwidth()
    return Speed(
        task=task,
        device_kind=contest.device.kind,
        device=contest.device.name,
        clock=contest.device.clock,
        dtype=str(contest.dtype).removeprefix("torch."),
        batch=contest.batch,
        channels_last=settings.channels_last,
        compiled=settings.compile,
        before=race.before,
        after=race.after,
        ratio=race.ratio.median,
        ratio_low=race.ratio.low,
        ratio_high=race.ratio.high,
        confidence=race.ratio.confidence,
        pairs=race.pairs,
        pairs_wanted=PAIRS,
        limited=race.pairs < PAIRS,
        seconds_limit=settings.seconds,
        floor_bytes=floor_bytes,
        floor_seconds=None if floor_bytes is None or bandwidth is None else floor_bytes / bandwidth,
        bandwidth=bandwidth,
        memory=step_memory(contest) if task == "training step" else None,
    )


def _module_seconds(contest: Contest, insertions: Sequence[Insertion]) -> Mapping[str, float]:
    """Timed without compilation, since a compiled graph has no module boundaries left to stop a clock at."""
    limit = SHARES_PART * contest.settings.seconds / 2
    original, patched = contest.models
    new = module_seconds(patched, [i.module for i in insertions], contest.inputs, contest.device, limit)
    replaced = [i.replaces for i in insertions if i.replaces is not None]
    old = module_seconds(original, replaced, contest.inputs, contest.device, limit) if replaced else {}
    return {i.module: new[i.module] - (old[i.replaces] if i.replaces is not None else 0.0) for i in insertions}
