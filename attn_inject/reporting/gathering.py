"""Two models in, one `ReportData` out: counts both, times both, and says what each new module adds.

What a site adds is what runs inside its new module, less what ran inside the module it replaces. Whatever else differs
between the two models is reported as `outside`, so that sites and outside always add up to the totals. What a report is
about where submodules were patched is in `subject`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from torch import nn

from ..cost.amounts import Cost
from ..cost.counting import Count, count
from ..cost.latency import Progress
from ..cost.parameters import Holding, holding
from ..cost.shares import Share
from ..errors import TraceError
from ..tracing.injected import InjectedModule
from ..tracing.inputs import Inputs, dtype_of
from ..tracing.prepare import unwrap
from ..types import Insertion, stage_number
from .blocks import block_paths, block_rows
from .data import Quantity, ReportData, SiteRow, StageRow
from .inputs import input_rows, report_inputs, taken_beside_an_image
from .settings import Convention, ReportSettings
from .speed import Speeds, bench_settings, measure
from .subject import Subject


def gather(
    original: nn.Module,
    patched: nn.Module,
    settings: ReportSettings,
    *,
    input_size: Sequence[int] | None = None,
    example_inputs: Any = None,
    progress: Progress | None = None,
) -> ReportData:
    """Make the report's data; without `settings.bench` nothing is run for real."""
    bench = bench_settings(settings)
    convention = settings.convention
    whole = unwrap(original)
    subject = Subject.of(whole, unwrap(patched))
    original, patched, insertions = subject.original, subject.patched, subject.insertions
    if example_inputs is None and subject.scope and not isinstance(patched, InjectedModule):
        example_inputs = taken_beside_an_image(whole, subject)
    given = report_inputs(original, patched, subject.plan, input_size=input_size, example_inputs=example_inputs)
    paths = block_paths(original, insertions)
    inputs, before, after = _counted(original, patched, insertions, paths, given)
    holdings = holding(original), holding(patched)
    added = [_added(insertion, original, patched, before, after) for insertion in insertions]
    everything = _cost(after, holdings[1]) - _cost(before, holdings[0])
    outside = everything - sum(added, Cost())
    rows = [_row(insertion, cost, convention) for insertion, cost in zip(insertions, added, strict=True)]
    rows = [_as_run(row, after, inputs, is_parted=subject.is_parted) for row in rows]
    speeds = Speeds((), {})
    if settings.bench:
        speeds = measure(original, patched, inputs, insertions, bench, progress)
    rows = _timed(rows, speeds.modules)
    taken = input_rows(original, inputs)
    return ReportData(
        title=subject.title,
        input_size=taken[0].size if taken else (),
        dtype=str(dtype_of(original)).removeprefix("torch."),
        convention=convention,
        units=settings.units,
        totals=_totals(before, after, holdings, convention),
        sites=tuple(rows),
        stages=_stages(rows),
        outside=_in_convention(outside, convention),
        speeds=speeds.races,
        unknown=_larger(before.unknown, after.unknown),
        diffs=subject.diffs,
        notes=(*subject.notes, *_batch_note(inputs), *_data_note(before, after)),
        not_kept=subject.not_kept,
        guards=subject.guards,
        any_size=subject.any_size,
        checks=subject.checks,
        versions=subject.versions,
        inputs=taken,
        blocks=block_rows(original, paths, before, rows, _extent(inputs)),
        made=datetime.now(UTC).isoformat(timespec="minutes"),
    )


def _counted(
    original: nn.Module, part: nn.Module, insertions: Sequence[Insertion], blocks: Sequence[str], given: Inputs
) -> tuple[Inputs, Count, Count]:
    """Both models' counts for one of each input, or, where they run on no single one, for the batch that was given."""
    watched = {*blocks, *(insertion.replaces for insertion in insertions if insertion.replaces is not None)}
    new = [insertion.module for insertion in insertions]
    single = given.with_batch(1)
    try:
        return single, count(original, single, watched=watched), count(part, single, watched=new)
    except TraceError:
        if given.batch == 1:
            raise
        return given, count(original, given, watched=watched), count(part, given, watched=new)


def _batch_note(inputs: Inputs) -> tuple[str, ...]:
    return () if inputs.batch == 1 else (f"counted for a batch of {inputs.batch}: the model takes no single input",)


def _data_note(*counts: Count) -> tuple[str, ...]:
    if not any(each.of_data for each in counts):
        return ()
    return ("counted on one run with random values, since the model's code decides on data: other data cost otherwise",)


def _cost(counted: Count, held: Holding) -> Cost:
    return replace(counted.total, parameters=held.parameters, buffers=held.buffers)


def _added(insertion: Insertion, original: nn.Module, patched: nn.Module, before: Count, after: Count) -> Cost:
    held = holding(patched.get_submodule(insertion.module))
    cost = replace(after.parts[insertion.module], parameters=held.parameters, buffers=held.buffers)
    if insertion.replaces is None:
        return cost
    held = holding(original.get_submodule(insertion.replaces))
    return cost - replace(before.parts[insertion.replaces], parameters=held.parameters, buffers=held.buffers)


def _in_convention(cost: Cost, convention: Convention) -> Cost:
    """The papers count convolutions and linears only: no FLOPs but two per MAC."""
    return replace(cost, flops=2 * cost.macs) if convention == "paper" else cost


def _row(insertion: Insertion, cost: Cost, convention: Convention) -> SiteRow:
    site = insertion.site
    return SiteRow(
        block=site.block,
        kind=site.kind,
        stage=site.stage,
        channels=insertion.channels or site.channels,
        size=site.size,
        calls=site.calls,
        placement=insertion.placement,
        attention=insertion.attention,
        options=dict(insertion.options),
        module=insertion.module,
        replaces=insertion.replaces,
        added=_in_convention(cost, convention),
    )


def _as_run(row: SiteRow, after: Count, inputs: Inputs, *, is_parted: bool) -> SiteRow:
    """The row with the size that its map has on these inputs; a part knows its stages by its own input, not these."""
    shape = after.shapes.get(row.module)
    if shape is None:
        return row
    stage = stage_number(_extent(inputs), shape[2:]) if is_parted else row.stage
    return replace(row, size=shape[2:], stage=stage)


def _extent(inputs: Inputs) -> int:
    """The longest spatial extent of the first input."""
    return max((inputs.shape or ())[2:], default=1)


def _timed(rows: Sequence[SiteRow], times: Mapping[str, Share]) -> list[SiteRow]:
    """The rows with their seconds, and each one's share of the sum in percent."""
    if not times:
        return list(rows)
    return [replace(row, seconds=times[row.module].seconds, time_share=times[row.module].percent) for row in rows]


def _stages(rows: Sequence[SiteRow]) -> tuple[StageRow, ...]:
    stages = []
    for number in sorted({row.stage for row in rows}):
        members = [row for row in rows if row.stage == number]
        seconds = [row.seconds for row in members if row.seconds is not None]
        shares = [row.time_share for row in members if row.time_share is not None]
        stages.append(
            StageRow(
                stage=number,
                sites=len(members),
                added=sum((row.added for row in members), Cost()),
                seconds=sum(seconds) if seconds else None,
                time_share=sum(shares) if len(shares) == len(members) else None,
            )
        )
    return tuple(stages)


def _totals(
    before: Count, after: Count, holdings: tuple[Holding, Holding], convention: Convention
) -> tuple[Quantity, ...]:
    b = _in_convention(_cost(before, holdings[0]), convention)
    a = _in_convention(_cost(after, holdings[1]), convention)
    return (
        Quantity("parameters", "count", b.parameters, a.parameters),
        Quantity("buffers", "count", b.buffers, a.buffers),
        Quantity("MACs", "operations", b.macs, a.macs),
        Quantity("FLOPs", "operations", b.flops, a.flops),
        Quantity("activations", "count", b.activations, a.activations),
        Quantity("activation bytes", "bytes", b.activation_bytes, a.activation_bytes),
        Quantity("bytes read", "bytes", b.bytes_read, a.bytes_read),
        Quantity("bytes written", "bytes", b.bytes_written, a.bytes_written),
        Quantity("peak activation bytes", "bytes", before.peak_bytes, after.peak_bytes),
        Quantity("file bytes", "bytes", holdings[0].file_bytes, holdings[1].file_bytes),
    )


def _larger(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {name: max(before.get(name, 0), after.get(name, 0)) for name in sorted({*before, *after})}
