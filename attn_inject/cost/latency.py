"""How much slower models are than a first one, measured in turns so that a drifting clock cannot favour any.

They run interleaved: A B, then B A, then with another first, and so on. Each round gives one ratio to the first model;
since the order changes every time, whatever running later is worth cancels in their median. That median is reported
with its interval.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from time import perf_counter

import torch
from torch import nn

from ..tracing.inputs import Inputs, dtype_of, tensors_in
from .contention import Contention, Watch
from .device import Device, pick
from .gradless import without_gradients
from .samples import Interval, Latency, Timing, median_interval, timing

PAIRS = 30
# The part of the time limit that is left for asking where the time goes (`cost.shares`).
SHARES_PART = 0.2
_MOST_PAIRS = 400
_FEWEST_PAIRS = 2
# With fewer, no interval is sure to 95 %.
_ENOUGH_PAIRS = 6
_SHORTEST_SAMPLE = 0.002

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What to run: on which device, in which type and layout, how many images, for at most how many seconds each.

    `training` asks for the training step beside inference. `batch` is by default 32 on CUDA; on a CPU 1, or 2 for a
    training step, since batch norms cannot take statistics of one value. `seconds` are for each model after the
    first; `threads` are torch's on the CPU, as they are by default.
    """

    device: str = "auto"
    dtype: torch.dtype | None = None
    batch: int | None = None
    channels_last: bool = False
    compile: bool = False
    training: bool = False
    seconds: float = 3.0
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Race:
    """The models' timings from `pairs` interleaved rounds, and each one's time over the first's, with its interval.

    `contention` is what else the processor did meanwhile; None where another device worked.
    """

    timings: tuple[Timing, ...]
    ratios: tuple[Interval, ...]
    pairs: int
    contention: Contention | None

    @property
    def latency(self) -> Latency:
        """The second model's time over the first's."""
        ratio = self.ratios[1]
        busy = self.contention is not None and self.contention.is_busy
        return Latency(ratio.median, ratio.low, ratio.high, ratio.confidence, self.pairs, busy)


class Contest:
    """Two or more models, ready to run in turns on one device; the first is what the others are held against.

    What runs are copies, so that the callers' models are neither moved, converted nor trained.
    """

    def __init__(self, models: Sequence[nn.Module], inputs: Inputs, settings: BenchSettings) -> None:
        self.device: Device = pick(settings.device)
        self.settings = settings
        self.dtype = settings.dtype or dtype_of(models[0])
        self.batch = settings.batch or (32 if self.device.kind == "cuda" else 1 + settings.training)
        real = inputs.with_batch(self.batch).real(self.device.torch, self.dtype)
        self.inputs = real.map_tensors(lambda x: x.contiguous(memory_format=self._layout(x.dim())))
        rank = next((tensor.dim() for tensor in real.tensors), 0)
        self.models = copy.deepcopy(list(models))  # at once: they share weights
        for model in self.models:
            model.to(self.device.torch, self.dtype)
            model.to(memory_format=self._layout(rank))

    def _layout(self, rank: int) -> torch.memory_format:
        """The memory format of maps of so many dimensions, batch and channels included."""
        if not self.settings.channels_last:
            return torch.contiguous_format
        return {4: torch.channels_last, 5: torch.channels_last_3d}.get(rank, torch.contiguous_format)

    def inference(self, progress: Progress | None = None) -> Race:
        """Race the forward passes in eval mode, without gradients."""
        for model in self.models:
            model.eval()
        passes = [partial(self.inputs.given_to, model) for model in self._callables()]
        within = without_gradients(passes)

        def gradless(run: Callable[[], object]) -> None:
            with within():
                run()

        return self._race([partial(gradless, run) for run in passes], "inference", progress)

    def training(self, progress: Progress | None = None) -> Race:
        """Race training steps: forward in train mode, the mean of the outputs as loss, backward."""
        for model in self.models:
            model.train()
        steps = [self._step(model) for model in self._callables()]
        for step in steps:
            step()  # compiles, picks kernels, grows the allocator: not counted, nor held against the time limit
        return self._race(steps, "training step", progress)

    def _callables(self) -> list[Callable[..., object]]:
        return [torch.compile(model) for model in self.models] if self.settings.compile else list(self.models)

    def _step(self, model: Callable[..., object]) -> Callable[[], object]:
        parameters = [parameter for each in self.models for parameter in each.parameters()]

        def run() -> None:
            for parameter in parameters:
                parameter.grad = None
            outputs = [out for out in tensors_in(self.inputs.given_to(model)) if out.requires_grad]
            torch.stack([output.float().mean() for output in outputs]).sum().backward()  # type: ignore[no-untyped-call]

        return run

    def _race(self, runs: Sequence[Callable[[], object]], what: str, progress: Progress | None) -> Race:
        begin = perf_counter()
        limit = self.settings.seconds * (1 - SHARES_PART) * (len(runs) - 1)
        warm = [self.device.seconds(run, 1) for run in runs]
        fit = int(limit / max(sum(warm), 1e-9))
        if fit < _ENOUGH_PAIRS:
            warnings.warn(
                f"{what}: one turn of all models takes {sum(warm):.2g} s, too long to resolve much in {limit:.2g} s; "
                "give it more time, or a smaller batch or input",
                UserWarning,
                stacklevel=2,
            )
        peaks = [self.device.peak_bytes(run) for run in runs]
        number = max(1, ceil(_SHORTEST_SAMPLE / max(min(warm), 1e-9)))
        samples: list[list[float]] = [[] for _ in runs]
        pairs = 0
        watch = Watch()
        while pairs < _FEWEST_PAIRS or (perf_counter() < begin + limit and pairs < _MOST_PAIRS) or pairs % 2:
            for index in _order(pairs, len(runs)):
                samples[index].append(self.device.seconds(runs[index], number))
            pairs += 1
            if progress is not None:
                share = (perf_counter() - begin) / limit
                progress(f"{what}: {pairs} pairs", min(1.0, max(share, pairs / _MOST_PAIRS)))
        first = samples[0]
        return Race(
            timings=tuple(timing(each, self.batch, peak) for each, peak in zip(samples, peaks, strict=True)),
            ratios=tuple(median_interval([b / a for a, b in zip(first, each, strict=True)]) for each in samples),
            pairs=pairs,
            contention=watch.seen() if self.device.kind == "cpu" else None,
        )


def _order(turn: int, count: int) -> list[int]:
    """Who runs when in a round: every second one backwards, and after two another begins."""
    start = turn // 2
    order = [(start + place) % count for place in range(count)]
    return order[::-1] if turn % 2 else order
