"""Models x attentions x placements: make every combination, report on it, and put the reports side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
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
    combinations = list(product(attentions, placements))
    candidates: list[Candidate] = []
    reports: list[Report] = []
    for position, asked in enumerate(wanted):
        name, model, source = _model(asked, timed=bool(reporting.get("bench", True)))
        made: list[tuple[str, Placement, Report]] = []
        for index, (attention, placement) in enumerate(combinations):
            label = attention if isinstance(attention, str) else getattr(attention, "__name__", str(attention))
            if progress is not None:
                progress(f"{name} + {label}", (position + index / len(combinations)) / len(wanted))
            try:
                patched = inject(model, attention, placement=placement, source=source, **(options or {}))
            except (AttentionError, PlanError) as error:
                candidates.append(Candidate(name, label, placement, problem=str(error)))
                continue
            made.append((label, placement, report(model, patched, **reporting)))
        if made:
            plain = baseline(name, [each for _, _, each in made])
            candidates += [plain, *(candidate(plain, label, placement, each) for label, placement, each in made)]
            reports += [each for _, _, each in made]
    if not reports:
        raise AttnInjectError(f"nothing to compare: {candidates[0].problem}" if candidates else "nothing to compare")
    return comparison(candidates, device=_device(reports), convention=reports[0].convention, units=reports[0].units)


def _model(asked: str | nn.Module, *, timed: bool) -> tuple[str, nn.Module, Source | None]:
    """Name, model and source; a model that will not run is built without weights, since counting needs none."""
    if isinstance(asked, nn.Module):
        return type(asked).__name__, asked, None
    source = parse_source(asked)
    return source.name, build(source, device=None if timed else "meta"), source


def _device(reports: Sequence[Report]) -> str | None:
    speed = next((each.speeds[0] for each in reports if each.speeds), None)
    return (
        None if speed is None else f"{speed.device_kind.upper()} ({speed.device}), {speed.dtype}, batch {speed.batch}"
    )
