"""The sites that are worth most together within limits: a knapsack, of one attention at most for each site.

States are built up site by site (Nemhauser and Ullmann, "Discrete dynamic programming and capital allocation", 1969):
what a set is worth and costs, without those that another set beats in everything. That is exact, for any number of
limits, as long as the states are not cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A few dozen sites under one limit leave far fewer.
MOST_STATES = 300


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that can be taken: what it is worth, and what of each limit it costs."""

    worth: float
    costs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _State:
    worth: float
    costs: tuple[float, ...]
    taken: tuple[Item, ...]


def best_set(groups: Sequence[Sequence[Item]], limits: Sequence[float]) -> tuple[tuple[Item, ...], bool]:
    """(the items that are worth most, at most one of each group, within the limits; whether that is proven best).

    >>> from attn_inject.studying.best_set import Item, best_set
    >>> few, light, heavy = Item(2.0, (1.0,)), Item(3.0, (2.0,)), Item(4.0, (3.0,))
    >>> best_set([[few], [light], [heavy]], [3.0]) == ((few, light), True)
    True
    """
    states, exact = [_State(0.0, (0.0,) * len(limits), ())], True
    for group in groups:
        grown = [
            _State(state.worth + item.worth, costs, (*state.taken, item))
            for state in states
            for item in group
            if within(costs := tuple(a + b for a, b in zip(state.costs, item.costs, strict=True)), limits)
        ]
        states = _undominated([*states, *grown])
        if len(states) > MOST_STATES:
            states, exact = states[:MOST_STATES], False
    return states[0].taken, exact


def within(costs: Sequence[float], limits: Sequence[float]) -> bool:
    """Whether nothing is exceeded, but for the rounding of sums."""
    return all(cost <= limit + 1e-9 * max(1.0, abs(limit)) for cost, limit in zip(costs, limits, strict=True))


def _undominated(states: list[_State]) -> list[_State]:
    """Those that no other one beats in worth and in all costs, the most worth first."""
    kept: list[_State] = []
    for state in sorted(states, key=lambda each: (-each.worth, each.costs)):
        if not any(all(a <= b for a, b in zip(other.costs, state.costs, strict=True)) for other in kept):
            kept.append(state)
    return kept
