"""A sweep's rows side by side, as `compare` shows attentions: its table, its marks and its chart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..errors import AttnInjectError
from ..reporting.comparing import Comparison, shown
from ..reporting.comparison import Candidate, comparison
from .rows import Row
from .work import PLAIN


def compared(rows: Sequence[Row]) -> Comparison:
    """The comparison of all rows; the plain model of each is in it once, before what was put into it.

    Raises:
        AttnInjectError: no row has figures, or they were counted by different conventions.

    """
    conventions = {row.convention for row in rows if row.convention is not None}
    if not conventions:
        first = next((f": {row.error}" for row in rows if row.error is not None), "")
        raise AttnInjectError(f"nothing to compare{first}")
    if len(conventions) > 1:
        raise AttnInjectError("the rows were counted by different conventions: sweep again with one")
    devices = {row.device: None for row in rows if row.device is not None}
    return shown(
        comparison(
            [each for model in dict.fromkeys(row.model for row in rows) for each in _of_one(model, rows)],
            device="; ".join(devices) or None,
            convention="paper" if conventions == {"paper"} else "all",
            units="decimal",
        )
    )


def _of_one(model: str, rows: Sequence[Row]) -> Iterator[Candidate]:
    """The candidates of one model, the plain one first; what failed before it was counted has a problem instead."""
    several = len({row.options for row in rows if row.options is not None}) > 1
    own = [row for row in rows if row.model == model]
    gated = [row for row in own if row.convention is not None]
    if gated:
        alone = next((row for row in own if row.attention == PLAIN and row.convention is None), None)
        yield _plain(gated[0], alone)
    for row in own:
        name = f"{row.attention} {row.options}" if several and row.options else row.attention
        if row.convention is not None:
            yield _candidate(name, row)
        elif row.error is not None:
            yield Candidate(model, name, row.placement, problem=row.error)


def _plain(row: Row, alone: Row | None) -> Candidate:
    timed = row.latency_ratio is not None
    return Candidate(
        model=row.model,
        attention=PLAIN,
        placement="",
        parameters=row.model_parameters,
        macs=row.model_macs,
        flops=row.model_flops,
        traffic=row.model_traffic,
        seconds=row.model_latency_seconds,
        ratio=1.0 if timed else None,
        pairs=row.latency_pairs,
        contended=bool(row.latency_contended),
        accuracy=None if alone is None else alone.accuracy,
        accuracy_low=None if alone is None else alone.accuracy_low,
        accuracy_high=None if alone is None else alone.accuracy_high,
    )


def _candidate(name: str, row: Row) -> Candidate:
    return Candidate(
        model=row.model,
        attention=name,
        placement=row.placement,
        sites=row.sites or 0,
        parameters=(row.model_parameters or 0) + (row.parameters or 0),
        macs=(row.model_macs or 0) + (row.macs or 0),
        flops=(row.model_flops or 0) + (row.flops or 0),
        traffic=(row.model_traffic or 0) + (row.traffic or 0),
        seconds=row.latency_seconds,
        ratio=row.latency_ratio,
        ratio_low=row.latency_low,
        ratio_high=row.latency_high,
        confidence=row.latency_confidence,
        pairs=row.latency_pairs,
        contended=bool(row.latency_contended),
        accuracy=row.accuracy,
        accuracy_low=row.accuracy_low,
        accuracy_high=row.accuracy_high,
    )
