"""The device that timings are taken on: its name, its clock, its memory, its bandwidth."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from ..errors import AttnInjectError

_COPY_BYTES = 1 << 27


@dataclass(frozen=True, slots=True)
class Device:
    """One device. `kind` is `cuda` or `cpu`; `clock` names how `seconds` measures there."""

    kind: str
    name: str
    clock: str

    @property
    def torch(self) -> torch.device:
        return torch.device(self.kind)

    def seconds(self, run: Callable[[], object], number: int) -> float:
        """Mean seconds of one of `number` calls in a row, everything they started included."""
        if self.kind == "cuda":
            start, end = event(), event()
            torch.cuda.synchronize()
            start.record()
            for _ in range(number):
                run()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) / 1000 / number
        now = _timer()
        begin = now()
        for _ in range(number):
            run()
        return (now() - begin) / number

    def peak_bytes(self, run: Callable[[], object]) -> int | None:
        """The most bytes that the allocator held during one call beyond what it held before; None on a CPU."""
        if self.kind != "cuda":
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def memory_bytes(self) -> int:
        """All memory that the device has."""
        if self.kind == "cuda":
            return int(torch.cuda.get_device_properties(self.torch).total_memory)
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def bandwidth(self) -> float:
        """Bytes per second that a plain copy of a large buffer moves, reads and writes together; the best of ten."""
        source = torch.ones(_COPY_BYTES // 4, device=self.torch)
        target = torch.empty_like(source)
        return 2 * _COPY_BYTES / min(self.seconds(lambda: target.copy_(source), 1) for _ in range(10))


@cache
def _timer() -> Callable[[], float]:
    """The clock of `torch.utils.benchmark`, loaded late and without the remark on compilers that it would log."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from torch.utils.benchmark.utils.timer import timer
    finally:
        logger.setLevel(level)
    return timer


def event() -> torch.cuda.Event:
    """A CUDA event that can be timed."""
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def pick(device: str | torch.device) -> Device:
    """The device to measure on: `auto` is CUDA where there is one, else the CPU."""
    kind = read(device)
    if kind.type == "cuda":
        if str(kind) != "cuda":
            raise AttnInjectError(f"{kind} cannot be asked for; use device='cuda' and set CUDA_VISIBLE_DEVICES")
        if not torch.cuda.is_available():
            raise AttnInjectError("there is no CUDA device here to measure on; use device='cpu'")
        return Device("cuda", torch.cuda.get_device_name(), "CUDA events")
    if kind.type == "cpu":
        return Device("cpu", _processor(), "torch.utils.benchmark timer")
    raise AttnInjectError(f"speed is measured on 'cuda' or 'cpu', not on {kind.type!r}")


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """As many threads of torch's as that, for a while; None leaves them as they are."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read(device: str | torch.device) -> torch.device:
    """The device of that name, there or not; `auto` is CUDA where there is one, else the CPU.

    Raises:
        AttnInjectError: no device of torch's has that name.

    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise AttnInjectError(f"{device!r} is not a device; use 'auto', 'cuda' or 'cpu'") from error


def _processor() -> str:
    """The processor's name and how many threads torch uses on it."""
    threads = f"{torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    name = names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    return f"{name}, {threads}"
