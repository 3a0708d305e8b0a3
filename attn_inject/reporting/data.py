"""What a report says, as frozen data. Everything is computed before it gets here; the renderers only show it.

Units: counts are plain integers, bytes are bytes, times are seconds, ratios are after over before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..cost.amounts import Cost
from ..cost.samples import Timing, is_resolved
from ..types import Check, Guard
from .settings import Convention, Units

Task = Literal["inference", "training step"]
Mark = Literal["kept", "new", "gone"]


@dataclass(frozen=True, slots=True)
class Quantity:
    """One total before and after. `unit` is `count`, `operations` or `bytes`."""

    name: str
    unit: Literal["count", "operations", "bytes"]
    before: int
    after: int

    @property
    def difference(self) -> int:
        return self.after - self.before

    @property
    def percent(self) -> float | None:
        """The difference in percent of before; None where there was nothing before."""
        return 100 * self.difference / self.before if self.before else None


@dataclass(frozen=True, slots=True)
class SiteRow:
    """One site: where it is, what went in, what that adds per image, and its share of the time.

    `seconds` is the time inside the new module less that inside the module it replaces, per batch; None where speed was
    not measured. `time_share` is its part of the sum over all sites, in percent; None where that was not resolved.
    """

    block: str
    kind: str
    stage: int
    channels: int
    size: tuple[int, ...]
    calls: int
    placement: str
    attention: str
    options: Mapping[str, Any]
    module: str
    replaces: str | None
    added: Cost
    seconds: float | None = None
    time_share: float | None = None


@dataclass(frozen=True, slots=True)
class StageRow:
    """All sites of one stage together; stage n works on maps 2**n times smaller than the input."""

    stage: int
    sites: int
    added: Cost
    seconds: float | None = None
    time_share: float | None = None


@dataclass(frozen=True, slots=True)
class BlockRow:
    """One block of the network, in order of execution: what it costs per image, and what attention adds to it.

    `paths` has more than one entry where layers without blocks follow one another. `stage` is None where what it gives
    is no map; `size` are its map's spatial extents. `sites` are the paths of the new modules in it; a row with no
    `cost` stands for a site between blocks.
    """

    paths: tuple[str, ...]
    stage: int | None
    size: tuple[int, ...]
    cost: Cost
    added: Cost = field(default_factory=Cost)
    sites: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a model's training step keeps for the backward pass, in bytes per batch, and the largest batch for it."""

    kept_bytes: int
    largest_batch: int


@dataclass(frozen=True, slots=True)
class StepMemory:
    """What training steps keep, counted and not measured: before, after, and after `optimize_training`.

    The largest batch is the one for which weights, gradients and what is kept fit into `memory_bytes`, all of the
    device's; an optimizer's state and a step's passing values come on top. `optimized` is None for a model without a
    graph.
    """

    memory_bytes: int
    before: Keeping
    after: Keeping
    optimized: Keeping | None


@dataclass(frozen=True, slots=True)
class Speed:
    """Both models' speed, run in turns. `ratio` is after over before: 1.05 is 5 % slower.

    `pairs` interleaved pairs were taken, at least `pairs_wanted` unless the time limit of `seconds_limit` came first
    (`limited`). `confidence` is that of the interval from `ratio_low` to `ratio_high`. `floor_seconds` is what the
    added memory traffic (`floor_bytes` per batch, inference) takes at `bandwidth`, the bytes per second of a plain
    copy there. On a CPU, `threads` of torch's used `cores_used` cores on average, other processes
    `cores_busy_elsewhere`; `contended` if these had to wait for one another. `memory` is a training step's,
    None where it cannot be counted.
    """

    task: Task
    device_kind: str
    device: str
    clock: str
    dtype: str
    batch: int
    channels_last: bool
    compiled: bool
    before: Timing
    after: Timing
    ratio: float
    ratio_low: float
    ratio_high: float
    confidence: float
    pairs: int
    pairs_wanted: int
    limited: bool
    seconds_limit: float
    floor_bytes: int | None = None
    floor_seconds: float | None = None
    bandwidth: float | None = None
    threads: int | None = None
    cores_used: float | None = None
    cores_busy_elsewhere: float | None = None
    contended: bool = False
    memory: StepMemory | None = None

    @property
    def resolved(self) -> bool:
        """Whether the ratio may be claimed; else only its interval."""
        return is_resolved(self.ratio, self.ratio_low, self.ratio_high, self.confidence, contended=self.contended)


@dataclass(frozen=True, slots=True)
class DiffLine:
    """One line of a block's code, and whether the injection kept it, made it or took it away."""

    mark: Mark
    text: str


@dataclass(frozen=True, slots=True)
class BlockNode:
    """One operation of a block's graph: what it is, and which nodes of the block (or `input`s of it) it reads."""

    name: str
    label: str
    mark: Mark
    reads: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BlockDiff:
    """How the blocks of one shape changed: every block that did, and the code and graphs that they have in common.

    Names are relative to the block. Long stretches of unchanged code are one line, `...`.
    """

    blocks: tuple[str, ...]
    lines: tuple[DiffLine, ...]
    before: tuple[BlockNode, ...]
    after: tuple[BlockNode, ...]


@dataclass(frozen=True, slots=True)
class InputRow:
    """One tensor that the model is given: its argument, its size without the batch, its type."""

    name: str
    size: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class ReportData:
    """What attention costs a model: per site, per stage and in total, before and after.

    Counts are for one image in inference: one of each of `inputs`, of which `input_size` is the first one's. `outside`
    is what changed outside the new modules (permutes of channels-last maps, attention that was taken out). `unknown`
    names the operations whose arithmetic could not be counted. `blocks` are those of the original. `made` is when the
    report was made (ISO 8601, UTC), `command` the command line that did it; empty in Python.
    """

    title: str
    input_size: tuple[int, ...]
    dtype: str
    convention: Convention
    units: Units
    totals: tuple[Quantity, ...]
    sites: tuple[SiteRow, ...] = ()
    stages: tuple[StageRow, ...] = ()
    outside: Cost = field(default_factory=Cost)
    speeds: tuple[Speed, ...] = ()
    unknown: Mapping[str, int] = field(default_factory=dict)
    diffs: tuple[BlockDiff, ...] = ()
    notes: tuple[str, ...] = ()
    not_kept: tuple[str, ...] = ()
    guards: tuple[Guard, ...] = ()
    any_size: bool = True
    checks: tuple[Check, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[InputRow, ...] = ()
    blocks: tuple[BlockRow, ...] = ()
    made: str = field(default="", compare=False)
    command: str = field(default="", compare=False)

    @property
    def traffic(self) -> Quantity:
        """Bytes read and written together, before and after."""
        read, written = self.total("bytes read"), self.total("bytes written")
        return Quantity("memory traffic", "bytes", read.before + written.before, read.after + written.after)

    def total(self, name: str) -> Quantity:
        """The total of that name; `KeyError` for an unknown one."""
        found = {quantity.name: quantity for quantity in self.totals}
        return found[name]
