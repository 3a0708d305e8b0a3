"""Whether a measurement had its processor to itself: what else ran meanwhile, and how much of it this process got.

Timings on a busy machine are no figures of the model: two threads of which one waits for a core take many times as
long. Two signs, both over the time of the measurement:

 1. Processor time of this process against wall time. Something of it always runs, so less than one core is less than
    it wanted: others ran in its place, or a quota held it back.
 2. Processor time of everything else, from /proc/stat, which counts what other virtual machines took as well; where
    there is none, the load average of the minute before. Together with this process's threads it may be more than the
    cores that there are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time

import torch

# Below so many cores of either, it may as well be the clocks' own grain, or this process's start and end.
_GRAIN = 0.25
_MOST_OF_A_CORE = 0.9
# The columns of the first line of /proc/stat that are no work: idle and waiting for disks (proc(5)); guests are counted
# within user and nice.
_IDLE, _GUESTS = (3, 4), 8


@dataclass(frozen=True, slots=True)
class Contention:
    """Cores in use during a measurement: `own` by this process, `elsewhere` by all others; None where nobody says."""

    own: float
    elsewhere: float | None
    cores: int
    threads: int

    @property
    def is_busy(self) -> bool:
        """Whether the process had to wait for its processor."""
        crowded = self.elsewhere is not None and self.threads + self.elsewhere > self.cores + _GRAIN
        return crowded or self.own < _MOST_OF_A_CORE


class Watch:
    """Begins to watch when it is made; `seen` is what happened since."""

    def __init__(self) -> None:
        self._wall, self._own, self._all = perf_counter(), process_time(), _processor_seconds()
        self._load = os.getloadavg()[0] if self._all is None and hasattr(os, "getloadavg") else None

    def seen(self) -> Contention:
        """The cores in use from the beginning until now."""
        wall = max(perf_counter() - self._wall, 1e-9)
        own, now = process_time() - self._own, _processor_seconds()
        elsewhere = self._load
        if now is not None and self._all is not None:
            elsewhere = max(0.0, (now - self._all - own) / wall)
        return Contention(own / wall, elsewhere, _cores(), torch.get_num_threads())


def _cores() -> int:
    """How many this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor_seconds(stat: Path = Path("/proc/stat")) -> float | None:
    """Seconds that all cores together have worked since the machine started; None where the system does not say."""
    try:
        fields = [int(number) for number in stat.read_text().splitlines()[0].split()[1:]]
    except (OSError, ValueError, IndexError):
        return None
    ticks = sum(number for index, number in enumerate(fields[:_GUESTS]) if index not in _IDLE)
    return ticks / os.sysconf("SC_CLK_TCK")
