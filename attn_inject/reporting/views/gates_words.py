"""What the gates' views say, in words and ready cells: the same in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Sequence

from ...studying.data import CLOSED, CONSTANT, OPEN, GateRow, GatesData, Verdict
from ...types import Effect, Measure, counted
from . import words
from .alike import span
from .tables import Table

_VERDICTS: dict[Verdict, str] = {
    "constant": f"constant (moving by less than {100 * CONSTANT:.0f} %; a fixed factor would do)",
    "pays": "moving pays",
    "harms": "moving harms",
    "not seen": "no difference between moving and frozen was seen",
}
_UNITS: dict[Measure, str] = {
    "accuracy": "points of accuracy lost",
    "loss": "loss added",
    "outputs": "% by which the outputs change",
}


def subtitle(data: GatesData) -> str:
    """What it was looked at on."""
    images = counted(data.images, "image")
    classes = f", {len(data.classes)} classes" if data.classes else ""
    return f"{'SYNTHETIC NOISE: ' if data.synthetic else ''}{data.data}, {images}{classes}"


def score(data: GatesData) -> str | None:
    """How right the model is on the images that the effects are of."""
    if data.score is None:
        return None
    value = f"accuracy {100 * data.score:.1f} %" if data.measure == "accuracy" else f"loss {data.score:.4g}"
    return f"{value} on {data.ablated_images:,} images"


def legend(data: GatesData, *, intervals: bool = False) -> str:
    """What the columns mean; of intervals where they are shown."""
    said = (
        "weight: mean over channels and images. moves: relative error made by putting means in the place of the "
        f"weights. shut, open: channels stuck below {CLOSED:g} or above {OPEN:g} of the gate's upper end."
    )
    if data.classes:
        said += " class: share of the spread that lies between classes, adjusted for chance."
    if has_effects(data):
        said += (
            f" frozen, out: {_UNITS[data.measure]} with the means in the place of the weights, and with the attention "
            "taken out."
        )
        if data.measure != "outputs" and any(row.without is not None for row in data.sites):
            said += (
                " A loss without it does not prove that the attention helps: its interval may hold 0, and a network "
                "misses what it was trained with."
            )
        if intervals and any(row.frozen is not None and row.frozen.low is not None for row in data.sites):
            said += f" Intervals hold together at {100 * data.confidence:.0f} %."
    return said


def has_effects(data: GatesData) -> bool:
    return any(row.frozen is not None for row in data.sites)


def remarks(data: GatesData) -> list[str]:
    """What a reader must not miss."""
    first = ["the data is noise: nothing here says what the gates do on images"] if data.synthetic else []
    return [*first, *data.notes]


def verdicts(data: GatesData) -> list[tuple[Verdict, str]]:
    """One line for each verdict, with the blocks that it is about."""
    found: dict[Verdict, list[str]] = {}
    for row in data.sites:
        found.setdefault(row.verdict(data.measure), []).append(row.block)
    return [(key, f"{text}: {words.blocks(found[key])}") for key, text in _VERDICTS.items() if key in found]


def unit(data: GatesData) -> str:
    """What the effects are in."""
    return _UNITS[data.measure]


def effect(value: Effect | None, measure: Measure, *, interval: bool = False) -> str:
    """0.4, or with its interval 0.4 (-0.1 to 0.9); a dash where it was not measured."""
    if value is None:
        return "–"
    text = _amount(value.mean, measure)
    if not interval or value.low is None or value.high is None:
        return text
    return f"{text} ({_amount(value.low, measure)} to {_amount(value.high, measure)})"


def _amount(value: float, measure: Measure) -> str:
    return f"{value:.3g}" if measure == "loss" else f"{100 * value + 0.0:.1f}".replace("-0.0", "0.0")


def share(value: float | None) -> str:
    """A share in percent: 0 %, 0.4 %, 12 %."""
    if value is None:
        return "–"
    return f"{100 * value:.0f} %" if value == 0 or 100 * value >= 9.95 else f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def table(data: GatesData, *, full: bool = False, intervals: bool = False) -> Table:
    """A row for every site, or for every stage: the means of its sites, and the extremes of what tells them apart."""
    classes, effects = bool(data.classes), has_effects(data)
    header = (
        *("block", "channels" if full else "n", "weight", "moves", "shut", "open"),
        *(("class",) if classes else ()),
        *(("frozen", "out") if effects else ()),
    )

    def cells(rows: Sequence[GateRow]) -> tuple[str, ...]:
        return (
            span([row.block for row in rows]),
            str(rows[0].channels if full else len(rows)),
            number(_mean([row.weight for row in rows])),
            _range([share(row.movement) for row in rows], [row.movement for row in rows]),
            *(share(_mean(values)) for values in ([row.closed for row in rows], [row.opened for row in rows])),
            *((share(_mean([row.between for row in rows])),) if classes else ()),
            *(_effects(rows, data.measure, intervals=intervals) if effects else ()),
        )

    return Table(header, tuple(cells(rows) for rows in folded(data.sites, full=full)), text_columns=1)


def folded(rows: Sequence[GateRow], *, full: bool = False) -> list[list[GateRow]]:
    """The sites of one stage and kind together, in order of their first."""
    groups: dict[object, list[GateRow]] = {}
    for index, row in enumerate(rows):
        key = (row.stage, row.kind, row.channels, row.placement, row.attention, row.nature)
        groups.setdefault(index if full else key, []).append(row)
    return list(groups.values())


def _effects(rows: Sequence[GateRow], measure: Measure, *, intervals: bool) -> tuple[str, str]:
    def cell(values: Sequence[Effect | None]) -> str:
        return _range(
            [effect(value, measure, interval=intervals) for value in values],
            [None if value is None else value.mean for value in values],
        )

    return cell([row.frozen for row in rows]), cell([row.without for row in rows])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _range(texts: Sequence[str], values: Sequence[float | None]) -> str:
    """The least and the greatest, where they read differently: 2.1–14 %, -0.4 … 0.2."""
    known = [(value, text) for value, text in zip(values, texts, strict=True) if value is not None]
    if not known:
        return texts[0]
    low, high = min(known)[1], max(known)[1]
    if low == high:
        return low
    return f"{low.removesuffix(' %')}–{high}" if high.endswith(" %") else f"{low} … {high}"
