"""What a choice of sites may cost, in a few words.

    budget = limit ("," limit)*                     all of them hold together
    limit  = "sites=" whole number
           | ("latency" | "params" | "flops") "=" amount
    amount = ratio                                  1.03: the plain model's own times so much
           | "+" number "%"                         +3%: so much on top of the plain model's own
           | "+" number ["k" | "M" | "G"]           +5k: so many on top (params and flops)

A mapping has the same keys, with the same texts or numbers as values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import AttnInjectError, nearest

Resource = Literal["latency", "params", "flops", "sites"]
RESOURCES: tuple[Resource, ...] = ("latency", "params", "flops", "sites")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_NUMBER = r"(\d{1,12}(?:\.\d{1,9})?)"
# Nobody means a model so many times as large: it is a number of parameters without its plus.
_LARGEST_RATIO = 100


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so much of a resource on top of the plain model: a share of its own, or (`counted`) so many."""

    resource: Resource
    most: float
    counted: bool

    def extra(self, plain: float) -> float:
        """What may come on top of a plain model that has so much of it."""
        return self.most if self.counted else self.most * plain


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits that hold together; none where everything is allowed. `text` is how it was said."""

    limits: tuple[Limit, ...] = ()
    text: str = ""

    @property
    def resources(self) -> tuple[Resource, ...]:
        return tuple(limit.resource for limit in self.limits)


def budget_of(given: str | Mapping[str, Any] | None) -> Budget:
    """The budget that a text or a mapping says.

    >>> from attn_inject.studying.budget import budget_of
    >>> [(limit.resource, limit.most, limit.counted) for limit in budget_of("params=+1%,sites=4").limits]
    [('params', 0.01, False), ('sites', 4.0, True)]

    Raises:
        AttnInjectError: anything else; says what a budget looks like.

    """
    if given is None:
        return Budget()
    if isinstance(given, str):
        parts = [part.partition("=") for part in given.split(",")]
        pairs = [(key.strip(), value.strip()) for key, _, value in parts]
    elif isinstance(given, Mapping):
        pairs = [(str(key), str(value).strip()) for key, value in given.items()]
    else:
        raise AttnInjectError(f"budget must be a text such as latency=1.03, or a mapping, not {type(given).__name__}")
    limits = tuple(_limit(key, value) for key, value in pairs)
    if not limits or len({limit.resource for limit in limits}) < len(limits):
        raise AttnInjectError("budget must name each of its resources once, as in latency=1.03,sites=4")
    return Budget(limits, ", ".join(f"{key}={value}" for key, value in pairs))


def _limit(key: str, value: str) -> Limit:
    if key not in RESOURCES:
        raise AttnInjectError(
            f"budget cannot limit {key[:40]!r}{nearest(key, RESOURCES)}: it is of {', '.join(RESOURCES)}, as in "
            "latency=1.03, params=+1%, flops=+2M or sites=4"
        )
    if key == "sites":
        if not re.fullmatch(r"[0-9]{1,6}", value):
            raise AttnInjectError(f"budget sites={value[:40]} must be a whole number of sites, as in sites=4")
        return Limit("sites", float(value), counted=True)
    if found := re.fullmatch(rf"\+{_NUMBER}\s*%", value):
        return Limit(key, float(found[1]) / 100, counted=False)
    if (found := re.fullmatch(rf"\+{_NUMBER}([kMG]?)", value)) and key != "latency":
        return Limit(key, float(found[1]) * _UNITS[found[2]], counted=True)
    if found := re.fullmatch(_NUMBER, value):
        if 1 <= (ratio := float(found[1])) <= _LARGEST_RATIO:
            return Limit(key, ratio - 1, counted=False)
        meant = f": write +{value} for so many more" if ratio > 1 and key != "latency" else ""
        raise AttnInjectError(
            f"budget {key}={value} is {value} times the plain model's own, which must be from 1 to "
            f"{_LARGEST_RATIO}{meant or f', as in {key}=1.03'}"
        )
    counted = "" if key == "latency" else f" or {key}=+20k"
    raise AttnInjectError(f"budget {key}={value[:40]} is no amount: write {key}=1.03, {key}=+3%{counted}")
