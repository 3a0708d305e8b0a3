"""Attentions that compete for the sites of a model: their plans, what each is worth at each site, and the best set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

from torch import nn

from ..attention.registry import text_name
from ..errors import AttnInjectError, PlanError
from ..planning.choices import Choices
from ..planning.plan import locate_and_plan, plan_for
from ..surgery.apply import apply_to
from ..surgery.records import records_of
from ..tracing.inputs import Inputs
from ..tracing.shapes import BATCH
from ..types import Effect, Insertion, Plan
from .best_set import Item, best_set, within
from .budget import Budget
from .choice import SiteWorth
from .effects import Differences
from .prices import Price
from .trained import Patching

AttentionLike = str | type | Callable[..., Any]
_KEYWORDS = {item.name for item in fields(Choices)} - {"attention", "options"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One attention at one site."""

    insertion: Insertion
    label: str
    price: Price
    worth: Effect = field(default_factory=lambda: Effect(0.0, None, None))
    by_seed: tuple[float, ...] = ()

    @property
    def pays(self) -> bool:
        return self.worth.low is not None and self.worth.low > 0

    def shown(self, *, chosen: bool) -> SiteWorth:
        site = self.insertion.site
        return SiteWorth(
            block=site.block,
            kind=site.kind,
            stage=site.stage,
            channels=self.insertion.channels,
            attention=self.label,
            module=self.insertion.module,
            worth=self.worth,
            by_seed=self.by_seed,
            price=self.price,
            chosen=chosen,
        )


def competing(attention: AttentionLike | Sequence[AttentionLike]) -> dict[str, AttentionLike]:
    """The attentions by the names that people see.

    Raises:
        AttnInjectError: none, one twice, or several that only this process knows.

    """
    given: list[Any] = list(attention) if isinstance(attention, (list, tuple)) else [attention]
    named = {each if isinstance(each, str) else text_name(each).rpartition(":")[2]: each for each in given}
    if not named or len(named) < len(given) or "none" in named:
        raise AttnInjectError(
            "choose takes one attention, or several that compete, each once; 'none' is what all are held against"
        )
    if len(named) > 1 and sum(not isinstance(each, str) for each in given) > 1:
        raise AttnInjectError(
            "of several attentions only one may be a class or a function, or a plan could not tell them apart: give "
            "the others names with register_attention()"
        )
    return named


def choices_of(attention: AttentionLike, given: Mapping[str, Any]) -> Choices:
    """The choices among a caller's keywords; the rest are the attention's options.

    Raises:
        PlanError: one that would leave nothing to compare with.

    """
    if given.get("init", "identity") != "identity":
        raise PlanError("choose starts from the network as it is: leave init out, or give init='identity'")
    if "replace" in (given.get("existing"), given.get("placement")):
        raise PlanError("choose compares with the network as it is, of which 'replace' would take something out")
    return Choices(
        attention=attention,
        **{**{key: value for key, value in given.items() if key in _KEYWORDS}, "init": "identity"},
        options={key: value for key, value in given.items() if key not in _KEYWORDS},
    )


def plans_of(
    model: nn.Module,
    named: Mapping[str, AttentionLike],
    given: Mapping[str, Any],
    example_inputs: Any,
    seen: Inputs,
) -> tuple[dict[str, Plan], Patching]:
    """(what each attention at all sites would be, what puts a plan into an alias of the model).

    The model is read as the caller wants it; without a word about that, on inputs like those that were `seen`.

    Raises:
        PlanError: the model holds attention that was put in before, or there is no site.

    """
    if records_of(model):
        raise PlanError(
            "the model holds attention that was put in before: choose begins without, so use remove() first"
        )
    wishes = [choices_of(attention, given) for attention in named.values()]
    if example_inputs is None and wishes[0].input_size is None and wishes[0].scope is None:
        example_inputs = seen.on_meta().with_batch(BATCH)
    located, first = locate_and_plan(model, wishes[0], example_inputs=example_inputs)
    plans = [first, *(plan_for(located, each) for each in wishes[1:])]
    return dict(zip(named, plans, strict=True)), partial(apply_to, located, check=False)


def hull(seeds: Sequence[Differences], together: int) -> Effect:
    """The mean over seeds, and bounds that hold the interval of every seed, where `together` of them are to hold."""
    effects = [each.effect("loss", together) for each in seeds]
    lows = [each.low for each in effects if each.low is not None]
    highs = [each.high for each in effects if each.high is not None]
    mean = sum(each.mean for each in effects) / len(effects)
    return Effect(mean, min(lows), max(highs)) if lows else Effect(mean, None, None)


def limits_of(budget: Budget, plain: Price) -> list[float]:
    """What may come on top of the plain model, limit by limit."""
    return [limit.extra(0.0 if limit.resource == "sites" else plain.of(limit.resource)) for limit in budget.limits]


def costs_of(price: Price, budget: Budget) -> tuple[float, ...]:
    return tuple(price.of(resource) for resource in budget.resources)


def together(prices: Iterable[Price]) -> Price:
    """The sum."""
    listed = list(prices)
    return Price(
        sum(p.params for p in listed),
        sum(p.flops for p in listed),
        sum(p.traffic for p in listed),
        sum(p.latency for p in listed),
    )


def fits(candidates: Sequence[Candidate], budget: Budget, plain: Price) -> bool:
    """Whether all of them together stay within the budget."""
    costs = [costs_of(each.price, budget) for each in candidates]
    return within([sum(column) for column in zip(*costs, strict=True)], limits_of(budget, plain)) if costs else True


def filled(order: Iterable[Candidate], budget: Budget, plain: Price) -> list[Candidate]:
    """Those of an order that still fit, one after the other."""
    taken: list[Candidate] = []
    for each in order:
        if fits([*taken, each], budget, plain):
            taken.append(each)
    return taken


def chosen_of(
    candidates: Sequence[Candidate], budget: Budget, plain: Price, *, mixed: bool
) -> tuple[list[Candidate], bool]:
    """(the sites that pay and are worth most within the budget, one attention each; whether that is proven best)."""
    labels = [None] if mixed else list(dict.fromkeys(each.label for each in candidates))
    tried = [_best([c for c in candidates if c.pays and label in (None, c.label)], budget, plain) for label in labels]
    return max(tried, key=lambda each: sum(candidate.worth.mean for candidate in each[0]))


def _best(candidates: Sequence[Candidate], budget: Budget, plain: Price) -> tuple[list[Candidate], bool]:
    items = [Item(each.worth.mean, costs_of(each.price, budget)) for each in candidates]
    owners = {id(item): each for item, each in zip(items, candidates, strict=True)}
    groups: dict[Any, list[Item]] = {}
    for item, each in zip(items, candidates, strict=True):
        groups.setdefault(each.insertion.site.key, []).append(item)
    taken, exact = best_set(list(groups.values()), limits_of(budget, plain))
    return [owners[id(item)] for item in taken], exact


def plan_with(plans: Mapping[str, Plan], chosen: Sequence[Candidate]) -> Plan:
    """The plan of these candidates, as that of their first attention, or of one that only its factory makes."""
    labels = list(dict.fromkeys(each.label for each in chosen)) or list(plans)[:1]
    base = plans[next((label for label in labels if plans[label].factory is not None), labels[0])]
    return replace(base, insertions=tuple(each.insertion for each in chosen))
