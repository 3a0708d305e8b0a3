"""Many attentions side by side, as frozen data: what each costs, and which are not beaten by another.

A candidate is on the Pareto front of its model if no other attention there has both fewer parameters and less of the
second measure, or less of one and the same of the other. The second measure is latency where every candidate was timed,
else FLOPs. Latency is less only where that was resolved: a candidate with more parameters is on the front if its
interval lies below those of all that have fewer. The plain model is no candidate: nothing that is added to it makes it
smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..cost.samples import CONFIDENCE, is_resolved
from .data import ReportData, Speed
from .settings import Convention, Units

Measure = Literal["latency", "FLOPs"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model with one attention at one placement, or the model as it was (`attention` is `none`).

    Figures are totals of the model; `traffic` is the bytes that its operations read and write for one image.
    `ratio` is the time over the plain model's with its interval, from `pairs` rounds in which all candidates of the
    model ran in turns; `confidence` is the interval's. `seconds` per batch is the plain model's median times that
    ratio, since the machine's drift cancels in ratios only. None where it was not timed. `contended` says that the
    processor was busy with something else meanwhile. `accuracy`, with its interval where there were several seeds, is
    known of the rows of a sweep that trained. `as_published` are the parameters of the same with the attention in the
    place of convolutions, where its paper has it there and this candidate elsewhere. `problem` says why a combination
    could not be made; its figures are then None.
    """

    model: str
    attention: str
    placement: str
    sites: int = 0
    parameters: int | None = None
    macs: int | None = None
    flops: int | None = None
    traffic: int | None = None
    seconds: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    confidence: float | None = None
    pairs: int | None = None
    contended: bool = False
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    as_published: int | None = None
    problem: str | None = None
    on_front: bool = False

    @property
    def resolved(self) -> bool:
        """Whether the ratio may be claimed; else only its interval."""
        if self.ratio is None or self.ratio_low is None or self.ratio_high is None or self.confidence is None:
            return False
        return is_resolved(self.ratio, self.ratio_low, self.ratio_high, self.confidence, contended=self.contended)

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


def baseline(model: str, first: ReportData, speeds: Sequence[Speed]) -> Candidate:
    """The plain model, as a report has it; `speeds` are those of the candidates that ran in turns with it."""
    return Candidate(
        model=model,
        attention="none",
        placement="",
        parameters=first.total("parameters").before,
        macs=first.total("MACs").before,
        flops=first.total("FLOPs").before,
        traffic=first.traffic.before,
        seconds=speeds[0].before.median if speeds else None,
        ratio=1.0 if speeds else None,
        pairs=speeds[0].pairs if speeds else None,
        contended=bool(speeds) and speeds[0].contended,
    )


def candidate(plain: Candidate, attention: str, placement: str, report: ReportData, speed: Speed | None) -> Candidate:
    """What a report and a race say of one combination with the model whose baseline is `plain`."""
    made = Candidate(
        model=plain.model,
        attention=attention,
        placement=placement,
        sites=len(report.sites),
        parameters=report.total("parameters").after,
        macs=report.total("MACs").after,
        flops=report.total("FLOPs").after,
        traffic=report.traffic.after,
    )
    if speed is None:
        return made
    return replace(
        made,
        seconds=speed.before.median * speed.ratio,
        ratio=speed.ratio,
        ratio_low=speed.ratio_low,
        ratio_high=speed.ratio_high,
        confidence=speed.confidence,
        pairs=speed.pairs,
        contended=speed.contended,
    )


def comparison(
    candidates: Sequence[Candidate], *, device: str | None, convention: Convention, units: Units
) -> ComparisonData:
    """Mark every model's front and put everything together."""
    made = [each for each in candidates if each.problem is None]
    measure: Measure = "latency" if made and all(each.seconds is not None for each in made) else "FLOPs"
    rivals = [each for each in made if each.attention != "none"]
    front = {
        id(each)
        for each in rivals
        if all(_stands_beside(each, other, measure) for other in rivals if other.model == each.model)
    }
    marked = tuple(replace(each, on_front=id(each) in front) for each in candidates)
    return ComparisonData(marked, measure, device, convention, units)


def _stands_beside(each: Candidate, other: Candidate, measure: Measure) -> bool:
    """Whether `other` does not keep `each` off the front."""
    more = (each.parameters or 0) - (other.parameters or 0)
    if more < 0 or each is other:
        return True
    return _has_less(each, other, measure) if more else not _has_less(other, each, measure)


def _has_less(one: Candidate, other: Candidate, measure: Measure) -> bool:
    """Whether `one` has less of the second measure; of latency, whether that was resolved."""
    if measure == "FLOPs":
        return (one.flops or 0) < (other.flops or 0)
    if one.ratio_high is None or other.ratio_low is None or one.confidence is None or other.confidence is None:
        return False
    quiet = not (one.contended or other.contended)
    return quiet and one.ratio_high < other.ratio_low and min(one.confidence, other.confidence) >= CONFIDENCE
