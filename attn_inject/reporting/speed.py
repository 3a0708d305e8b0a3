"""The measured part of a report: both models timed in turns, and the time inside each new module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ..cost.counting import count
from ..cost.device import pick, read, threads
from ..cost.latency import PAIRS, SHARES_PART, BenchSettings, Contest, Progress, Race
from ..cost.shares import Share, module_seconds, shares
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
        threads=settings.threads,
    )


def must_be_measurable(settings: ReportSettings, *, here: bool) -> None:
    """Refuse a device that is not there, or a type that cannot be measured, before any work.

    Where nothing is measured, or not `here`, only words that are neither.

    Raises:
        AttnInjectError: if so.

    """
    (pick if settings.bench and here else read)(bench_settings(settings).device)


def _floating(name: str) -> torch.dtype:
    found = getattr(torch, {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(name, name), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise AttnInjectError(f"{name!r} is not a floating-point type; use float32, bfloat16 or float16")
    return found


@dataclass(frozen=True, slots=True)
class Speeds:
    """The races that were run, and the time per batch inside each new module, less that inside what it replaces."""

    races: tuple[Speed, ...]
    modules: Mapping[str, Share]


def measure(
    original: nn.Module,
    patched: nn.Module,
    inputs: Inputs,
    insertions: Sequence[Insertion],
    settings: BenchSettings,
    progress: Progress | None = None,
) -> Speeds:
    """Time both models on batches of `inputs`. Raises `AttnInjectError` where there is nothing to run or nowhere to."""
    with _running((original, patched), settings):
        contest = Contest((original, patched), inputs, settings)
        races = [*_speeds(contest, contest.inference(progress), "inference")]
        modules = _module_shares(contest, insertions)
        if settings.training:
            races += _speeds(contest, contest.training(progress), "training step")
    return Speeds(tuple(races), modules)


def measure_side_by_side(
    models: Sequence[nn.Module], inputs: Inputs, settings: BenchSettings, progress: Progress | None = None
) -> list[Speed]:
    """Inference of all models in turns with one another: the speed of each after the first, held against the first.

    Raises `AttnInjectError` where there is nothing to run or nowhere to.
    """
    with _running(models, settings):
        contest = Contest(models, inputs, settings)
        return _speeds(contest, contest.inference(progress), "inference")


@contextmanager
def _running(models: Sequence[nn.Module], settings: BenchSettings) -> Iterator[None]:
    """What holds while models run: they have weights, torch its threads, and memory that is short is said."""
    if any(value.is_meta for model in models for value in model.parameters()):
        raise AttnInjectError("a model on the meta device has no weights to run with; use bench=False")
    try:
        with threads(settings.threads):
            yield
    except torch.OutOfMemoryError as error:
        raise AttnInjectError(
            "the models and their batch do not fit into the device's memory; use a smaller batch"
        ) from error


def _speeds(contest: Contest, race: Race, task: Task) -> list[Speed]:
    """The speed of each model after the first."""
    settings, contention = contest.settings, race.contention
    traffic = [count(model, contest.inputs).total.traffic for model in contest.models] if task == "inference" else []
    bandwidth = contest.device.bandwidth() if traffic else None
    made = []
    for index, (after, ratio) in enumerate(zip(race.timings[1:], race.ratios[1:], strict=True), start=1):
        floor = traffic[index] - traffic[0] if traffic else None
        made.append(
            Speed(
                task=task,
                device_kind=contest.device.kind,
                device=contest.device.name,
                clock=contest.device.clock,
                dtype=str(contest.dtype).removeprefix("torch."),
                batch=contest.batch,
                channels_last=settings.channels_last,
                compiled=settings.compile,
                before=race.timings[0],
                after=after,
                ratio=ratio.median,
                ratio_low=ratio.low,
                ratio_high=ratio.high,
                confidence=ratio.confidence,
                pairs=race.pairs,
                pairs_wanted=PAIRS,
                limited=race.pairs < PAIRS,
                seconds_limit=settings.seconds,
                floor_bytes=floor,
                floor_seconds=None if floor is None or bandwidth is None else floor / bandwidth,
                bandwidth=bandwidth,
                threads=None if contention is None else contention.threads,
                cores_used=None if contention is None else contention.own,
                cores_busy_elsewhere=None if contention is None else contention.elsewhere,
                contended=contention is not None and contention.is_busy,
                memory=step_memory(contest) if task == "training step" else None,
            )
        )
    return made


def _module_shares(contest: Contest, insertions: Sequence[Insertion]) -> Mapping[str, Share]:
    """Timed without compilation, since a compiled graph has no module boundaries left to stop a clock at."""
    original, patched = contest.models
    replaced = [i.replaces for i in insertions if i.replaces is not None]
    limit = SHARES_PART * contest.settings.seconds / (2 if replaced else 1)
    new = module_seconds(patched, [i.module for i in insertions], contest.inputs, contest.device, limit)
    old = module_seconds(original, replaced, contest.inputs, contest.device, limit) if replaced else {}
    passes = min(map(len, [*new.values(), *old.values()]), default=0)
    return shares(
        {
            i.module: [new[i.module][p] - (0.0 if i.replaces is None else old[i.replaces][p]) for p in range(passes)]
            for i in insertions
        }
    )
