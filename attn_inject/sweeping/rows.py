"""What a sweep finds of one model with one attention: a flat row, whose fields are the table's columns. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import sqrt
from statistics import NormalDist, fmean, stdev
from typing import Any

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One model with one attention and one set of options. What was not measured, or failed, is None.

    `attention` is `none` for the model as it is. `options` are the choices beside the placement, as JSON; None where
    there are none. `parameters`, `macs`, `flops` and `traffic` (bytes read and written) are what the attention adds for
    one image in inference, the `model_` columns what the model has before; `traffic_ratio` is after over before, and
    `convention` says what was counted, as a report does.
    `latency_ratio` is after over before too, from `latency_pairs` rounds in turns, with its interval and how sure that
    is; only where `latency_resolved` may it be claimed, and `latency_contended` says that the processor was busy with
    something else meanwhile. `latency_seconds` are per batch, and `device` is where it was timed.

    `accuracies` are what the train function gave, one for each seed, `accuracy` is their mean, and from two seeds on
    the two others are its 95 % interval (Student's). `error` is one sentence, None where all went well. `seconds` is
    how long the row took; `versions` are those of the process that made it.
    """

    model: str
    attention: str
    placement: str = ""
    options: str | None = None
    sites: int | None = None
    parameters: int | None = None
    macs: int | None = None
    flops: int | None = None
    traffic: int | None = None
    traffic_ratio: float | None = None
    model_parameters: int | None = None
    model_macs: int | None = None
    model_flops: int | None = None
    model_traffic: int | None = None
    convention: str | None = None
    latency_ratio: float | None = None
    latency_low: float | None = None
    latency_high: float | None = None
    latency_confidence: float | None = None
    latency_pairs: int | None = None
    latency_resolved: bool | None = None
    latency_contended: bool | None = None
    latency_seconds: float | None = None
    model_latency_seconds: float | None = None
    device: str | None = None
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    accuracies: tuple[float, ...] | None = None
    error: str | None = None
    seconds: float | None = None
    versions: str | None = None

    @property
    def label(self) -> str:
        """What was put into the model, as views call it."""
        return self.attention + ("" if self.placement in ("", "standard") else f" ({self.placement})")

    def to_dict(self) -> dict[str, Any]:
        """The columns by name."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Row:
        """The row of these columns; those that are not there are None.

        Raises TypeError or ValueError for values that cannot be a row's.
        """
        known = {name: _as(kind, values[name]) for name, kind in COLUMNS.items() if values.get(name) is not None}
        return cls(**known)


def _as(kind: type, value: Any) -> Any:
    if kind is tuple:
        return tuple(float(each) for each in value)
    if kind in (int, bool) and (not isinstance(value, int) or isinstance(value, bool) != (kind is bool)):
        raise TypeError(f"{value!r} is not {'yes or no' if kind is bool else 'a whole number'}")
    return kind(value)


_KINDS: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool, "tuple[float, ...]": tuple}
COLUMNS: dict[str, type] = {
    item.name: _KINDS[str(item.type).removesuffix(" | None")]
    for item in fields(Row)  # annotations are texts here
}
"""Every column's name and type, in order."""


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The mean of independent values, and Student's 95 % interval for it; None for that of a single value.

    >>> from attn_inject.sweeping.rows import mean_interval
    >>> mean, low, high = mean_interval([0.5, 0.7])
    >>> round(mean, 3), round(low, 3), round(high, 3)
    (0.6, -0.671, 1.871)
    """
    mean = fmean(values)
    if len(values) < 2:
        return mean, None, None
    half = _student(len(values) - 1) * stdev(values) / sqrt(len(values))
    return mean, mean - half, mean + half


# Two-sided 95 % quantiles of Student's distribution for 1 to 10 degrees of freedom.
_FEW = (12.70620, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814)


def _student(freedom: int) -> float:
    """The quantile; beyond the table by its expansion around the normal one (Abramowitz and Stegun, 26.7.5)."""
    if freedom <= len(_FEW):
        return _FEW[freedom - 1]
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
