"""Many attentions side by side, as frozen data: what each costs, and which are not beaten by another.

A candidate is on the Pareto front of its model if no other attention there has both fewer parameters and less of the
second measure, or less of one and the same of the other. The second measure is latency where every candidate was timed,
else FLOPs. The plain model is no candidate: nothing that is added to it makes it smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .data import ReportData
from .settings import Convention, Units

Measure = Literal["latency", "FLOPs"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model with one attention at one placement, or the model as it was (`attention` is `none`).

    `ratio` is the time over the plain model's with its interval, and `seconds` per batch the plain model's median
    times that ratio: candidates are timed one after another, and the machine's drift cancels in ratios only. None where
    it was not timed. `problem` says why a combination could not be made; its figures are then None.
    """

    model: str
    attention: str
    placement: str
    sites: int = 0
    parameters: int | None = None
    macs: int | None = None
    flops: int | None = None
    seconds: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    problem: str | None = None
    on_front: bool = False

    @property
    def label(self) -> str:
        placed = "" if self.placement in ("", "standard") else f" ({self.placement})"
        return self.attention + placed

    def name(self, *, several: bool) -> str:
        """How views call it; with `several` models in the comparison the model's name is in it."""
        if self.attention == "none":
            return self.model
        return f"{self.model} + {self.label}" if several else self.label


@dataclass(frozen=True, slots=True)
class ComparisonData:
    """All candidates, those of one model in a row and the plain model first. `device` says where they were timed."""

    candidates: tuple[Candidate, ...]
    measure: Measure
    device: str | None
    convention: Convention
    units: Units


def baseline(model: str, reports: Sequence[ReportData]) -> Candidate:
    """The plain model, as its reports have it; its latency is the median of what they measured."""
    first = reports[0]
    timed = sorted(report.speeds[0].before.median for report in reports if report.speeds)
    return Candidate(
        model=model,
        attention="none",
        placement="",
        parameters=first.total("parameters").before,
        macs=first.total("MACs").before,
        flops=first.total("FLOPs").before,
        seconds=timed[len(timed) // 2] if timed else None,
        ratio=1.0 if timed else None,
    )


def candidate(plain: Candidate, attention: str, placement: str, report: ReportData) -> Candidate:
    """What a report says of one combination with the model whose baseline is `plain`."""
    speed = report.speeds[0] if report.speeds else None
    return Candidate(
        model=plain.model,
        attention=attention,
        placement=placement,
        sites=len(report.sites),
        parameters=report.total("parameters").after,
        macs=report.total("MACs").after,
        flops=report.total("FLOPs").after,
        seconds=plain.seconds * speed.ratio if speed and plain.seconds else None,
        ratio=speed.ratio if speed else None,
        ratio_low=speed.ratio_low if speed else None,
        ratio_high=speed.ratio_high if speed else None,
    )


def comparison(
    candidates: Sequence[Candidate], *, device: str | None, convention: Convention, units: Units
) -> ComparisonData:
    """Mark every model's front and put everything together."""
    made = [each for each in candidates if each.problem is None]
    measure: Measure = "latency" if made and all(each.seconds is not None for each in made) else "FLOPs"
    rivals = [each for each in made if each.attention != "none"]
    beaten = {
        id(each)
        for each in rivals
        for other in rivals
        if other.model == each.model and _beats(_point(other, measure), _point(each, measure))
    }
    front = {id(each) for each in rivals} - beaten
    marked = tuple(replace(each, on_front=id(each) in front) for each in candidates)
    return ComparisonData(marked, measure, device, convention, units)


def _point(each: Candidate, measure: Measure) -> tuple[float, float]:
    second = each.seconds if measure == "latency" else each.flops
    return float(each.parameters or 0), float(second or 0)


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] <= other[1] and one != other
