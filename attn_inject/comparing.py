"""Models x attentions x placements: make every combination, report on it, and put the reports side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from .errors import AttentionError, AttnInjectError, PlanError
from .injecting import inject
from .reporting import report
from .reporting.comparison import Candidate, Comparison, baseline, candidate, comparison
from .reporting.data import Report
from .types import Placement, Source
from .zoo import build, parse_source

Progress = Callable[[str, float], None]


def compare(
    models: str | nn.Module | Iterable[str | nn.Module],
    attentions: Sequence[Any],
    placements: Sequence[Placement] = ("standard",),
    *,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **reporting: Any,
) -> Comparison:
    """Put every attention at every placement into every model, and say what each costs.

    Args:
        models: sources ("resnet50", "timm:resnet50d", ...) or models.
        attentions: as `inject` takes them.
        placements: as `inject` takes them.
        options: more keyword arguments for `inject` (`reduction=8`, `stages=[4]`, ...).
        progress: called with a text and the share that is done.
        reporting: keyword arguments for `report`: `bench`, `bench_seconds` (for each combination), `device`, ...

    A combination that does not exist (a placement that a block has no room for, say) becomes a candidate whose
    `problem` says so. Raises `AttnInjectError` where nothing could be made.

    """
    wanted = [models] if isinstance(models, (str, nn.Module)) else list(models)
    total = len(wanted) * len(attentions) * len(placements)
    candidates: list[Candidate] = []
    reports: list[Report] = []
    done = 0
    for asked in wanted:
        name, model, source = _model(asked)
        rows: list[Candidate] = []
        made: list[Report] = []
        for attention in attentions:
            for placement in placements:
                label = attention if isinstance(attention, str) else getattr(attention, "__name__", str(attention))
                if progress is not None:
                    progress(f"{name} + {label}", done / total)
                done += 1
                try:
                    patched = inject(model, attention, placement=placement, source=source, **(options or {}))
                except (AttentionError, PlanError) as error:
                    rows.append(Candidate(name, label, placement, problem=str(error)))
                    continue
                made.append(report(model, patched, **reporting))
                rows.append(candidate(name, label, placement, made[-1]))
        candidates += [baseline(name, made), *rows] if made else rows
        reports += made
    if not reports:
        raise AttnInjectError(f"nothing to compare: {candidates[0].problem}" if candidates else "nothing to compare")
    return comparison(candidates, device=_device(reports), convention=reports[0].convention, units=reports[0].units)


def _model(asked: str | nn.Module) -> tuple[str, nn.Module, Source | None]:
    if isinstance(asked, nn.Module):
        return type(asked).__name__, asked, None
    source = parse_source(asked)
    return source.name, build(source), source


def _device(reports: Sequence[Report]) -> str | None:
    speed = next((each.speeds[0] for each in reports if each.speeds), None)
    return (
        None if speed is None else f"{speed.device_kind.upper()} ({speed.device}), {speed.dtype}, batch {speed.batch}"
    )
