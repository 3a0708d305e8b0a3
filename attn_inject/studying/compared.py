"""The same budget spent in other ways, trained and judged in the same way: what a choice is held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from .budget import Budget
from .candidates import Candidate, filled, fits, hull, together
from .choice import SetRow
from .effects import Differences
from .prices import Price
from .trained import Outcome

# (the set, the seed) -> how it does.
Judge = Callable[[Sequence[Candidate], int], Outcome]


@dataclass(frozen=True, slots=True)
class Way:
    """A way to spend the budget: the same sites for every seed, or for each its own."""

    name: str
    sets: tuple[tuple[Candidate, ...], ...]


def ways(
    chosen: Sequence[Candidate], candidates: Sequence[Candidate], budget: Budget, plain: Price, seeds: int
) -> list[Way]:
    """The chosen set, no attention, and, of the attention that is worth most at all sites together: all of them (which
    may be beyond the budget), the last stage, every second site, and random ones, filled up as far as the budget goes,
    which may be nowhere.
    """
    sums: dict[str, float] = {}
    for each in candidates:
        sums[each.label] = sums.get(each.label, 0.0) + each.worth.mean
    label = max(sums, key=sums.__getitem__)
    sites = [each for each in candidates if each.label == label]
    last = max(each.insertion.site.stage for each in sites)
    fixed: Mapping[str, Sequence[Candidate]] = {
        "chosen": chosen,
        "none": (),
        "all": sites,
        "last stage": filled([each for each in sites if each.insertion.site.stage == last], budget, plain),
        "every second": filled(sites[::2], budget, plain),
    }
    made = [Way(name, (tuple(each),) * seeds) for name, each in fixed.items()]
    most = len(sites) if budget.limits else len(chosen) or max(1, len(sites) // 2)
    made.append(Way("random", tuple(_random(sites, most, budget, plain, seed) for seed in range(seeds))))
    return made


def _random(sites: Sequence[Candidate], most: int, budget: Budget, plain: Price, seed: int) -> tuple[Candidate, ...]:
    order = torch.randperm(len(sites), generator=torch.Generator().manual_seed(seed), device="cpu").tolist()
    taken = filled([sites[index] for index in order], budget, plain)[:most]
    return tuple(each for each in sites if each in taken)


def rows(made: Sequence[Way], judge: Judge, budget: Budget, plain: Price) -> Iterator[SetRow]:
    """A row for each way, against the plain model on the same images."""
    nothing = torch.tensor(judge((), 0).losses, dtype=torch.float64, device="cpu")
    against = sum(way.name != "none" for way in made)
    for way in made:
        outcomes = [judge(each, seed) for seed, each in enumerate(way.sets)]
        differences = []
        for outcome in outcomes:
            differences.append(Differences())
            differences[-1].add(nothing - torch.tensor(outcome.losses, dtype=torch.float64, device="cpu"))
        n = len(way.sets)
        costs = [together(candidate.price for candidate in each) for each in way.sets]
        yield SetRow(
            name=way.name,
            blocks=tuple(c.insertion.site.block for c in way.sets[0])
            if all(each == way.sets[0] for each in way.sets)
            else (),
            sites=sum(map(len, way.sets)) / n,
            price=Price(
                round(sum(c.params for c in costs) / n),
                round(sum(c.flops for c in costs) / n),
                round(sum(c.traffic for c in costs) / n),
                sum(c.latency for c in costs) / n,
            ),
            fits=all(fits(each, budget, plain) for each in way.sets),
            loss=_mean([value for outcome in outcomes for value in outcome.losses]),
            accuracy=_mean([value for outcome in outcomes for value in outcome.right]) if outcomes[0].right else None,
            gain=None if way.name == "none" else hull(differences, against),
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
