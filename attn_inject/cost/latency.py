"""How much slower one model is than another, measured in turns so that a drifting clock cannot favour either.

The two run interleaved: A B, then B A, then A B ... Each pair gives one ratio; since the order changes every time,
whatever running second is worth cancels in their median. That median is reported with its interval.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from time import perf_counter

import torch
from torch import nn

from ..tracing.inputs import Inputs, dtype_of, tensors_in
from .device import Device, pick
from .samples import Interval, Timing, median_interval, timing

PAIRS = 30
# The part of the time limit that is left for asking where the time goes (`cost.shares`).
SHARES_PART = 0.2
_MOST_PAIRS = 400
_FEWEST_PAIRS = 2
_SHORTEST_SAMPLE = 0.002

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What to run: on which device, in which type and layout, how many images, for at most how many seconds each.

    `training` asks for the training step beside inference. `batch` is by default 32 on CUDA; on a CPU 1, or 2 for a
    training step, since batch norms cannot take statistics of one value.
    """

    device: str = "auto"
    dtype: torch.dtype | None = None
    batch: int | None = None
    channels_last: bool = False
    compile: bool = False
    training: bool = False
    seconds: float = 3.0


@dataclass(frozen=True, slots=True)
class Race:
    """Two models' timings from `pairs` interleaved pairs, and the median of after over before with its interval."""

    before: Timing
    after: Timing
    ratio: Interval
    pairs: int


class Contest:
    """Two models, ready to run in turns on one device.

    What runs are copies, so that the callers' models are neither moved, converted nor trained.
    """

    def __init__(self, before: nn.Module, after: nn.Module, inputs: Inputs, settings: BenchSettings) -> None:
        self.device: Device = pick(settings.device)
        self.settings = settings
        self.dtype = settings.dtype or dtype_of(before)
        self.batch = settings.batch or (32 if self.device.kind == "cuda" else 1 + settings.training)
        real = inputs.with_batch(self.batch).real(self.device.torch, self.dtype)
        self.inputs = real.map_tensors(lambda x: x.contiguous(memory_format=self._layout(x.dim())))
        rank = next((tensor.dim() for tensor in real.tensors), 0)
        self.models = copy.deepcopy([before, after])
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
        return self._race([self._forward(model) for model in self._callables()], "inference", progress)

    def training(self, progress: Progress | None = None) -> Race:
        """Race training steps: forward in train mode, the mean of the outputs as loss, backward."""
        for model in self.models:
            model.train()
        return self._race([self._step(model) for model in self._callables()], "training step", progress)

    def _callables(self) -> list[Callable[..., object]]:
        return [torch.compile(model) for model in self.models] if self.settings.compile else list(self.models)

    def _forward(self, model: Callable[..., object]) -> Callable[[], object]:
        def run() -> None:
            with torch.inference_mode():
                self.inputs.given_to(model)

        return run

    def _step(self, model: Callable[..., object]) -> Callable[[], object]:
        parameters = [parameter for each in self.models for parameter in each.parameters()]

        def run() -> None:
            for parameter in parameters:
                parameter.grad = None
            outputs = [out for out in tensors_in(self.inputs.given_to(model)) if out.requires_grad]
            torch.stack([output.float().mean() for output in outputs]).sum().backward()  # type: ignore[no-untyped-call]

        return run

    def _race(self, runs: Sequence[Callable[[], object]], what: str, progress: Progress | None) -> Race:
        for run in runs:
            run()  # compiles, picks kernels, grows the allocator: not counted, nor held against the time limit
        end = perf_counter() + self.settings.seconds * (1 - SHARES_PART)
        warm = [self.device.seconds(run, 1) for run in runs]
        peaks = [self.device.peak_bytes(run) for run in runs]
        number = max(1, ceil(_SHORTEST_SAMPLE / max(min(warm), 1e-9)))
        samples: tuple[list[float], list[float]] = ([], [])
        pairs = 0
        begin = perf_counter()
        while pairs < _FEWEST_PAIRS or (perf_counter() < end and pairs < _MOST_PAIRS) or pairs % 2:
            for index in (0, 1) if pairs % 2 == 0 else (1, 0):
                samples[index].append(self.device.seconds(runs[index], number))
            pairs += 1
            if progress is not None:
                share = (perf_counter() - begin) / max(end - begin, 1e-9)
                progress(f"{what}: {pairs} pairs", min(1.0, max(share, pairs / _MOST_PAIRS)))
        return Race(
            before=timing(samples[0], self.batch, peaks[0]),
            after=timing(samples[1], self.batch, peaks[1]),
            ratio=median_interval([after / before for before, after in zip(*samples, strict=True)]),
            pairs=pairs,
        )
