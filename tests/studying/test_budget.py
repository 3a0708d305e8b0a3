"""What a budget says, and that the best set within it is the best there is."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from attn_inject import AttnInjectError, make_plan
from attn_inject.studying import best_set as module
from attn_inject.studying import weighing
from attn_inject.studying.best_set import Item, best_set, within
from attn_inject.studying.budget import budget_of
from attn_inject.studying.candidates import Candidate, chosen_of, fits, limits_of, together
from attn_inject.studying.choose import study_choice
from attn_inject.studying.compared import ways
from attn_inject.studying.prices import Price
from attn_inject.types import Effect
from attn_inject.zoo.cifar import models
from tests.studying.worthy import Net, batches

PLAIN = Price(params=1000, flops=10_000, traffic=100_000, latency=1.0)


@pytest.mark.parametrize(
    ("given", "extra"),
    [
        ("latency=1.03", [0.03]),
        ("latency=+3%", [0.03]),
        ("params=+1%", [10]),
        ("params=1.5", [500]),
        ("params=+5k", [5000]),
        ("flops=+0.5M", [500_000]),
        ("sites=4", [4]),
        (" sites=0 , latency = 1 ", [0, 0]),
        ({"sites": 4, "latency": 1.03}, [4, 0.03]),
        ({"params": "+120"}, [120]),
        (None, []),
    ],
)
def test_what_a_budget_says(given: Any, extra: list[float]) -> None:
    assert limits_of(budget_of(given), PLAIN) == pytest.approx(extra)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("latncy=1.03", "did you mean latency"),
        ("latency", "is no amount"),
        ("latency=fast", "write latency=1.03"),
        ("latency=0.9", "from 1 to 100"),
        ("latency=+5k", "is no amount"),
        ("latency=nan", "is no amount"),
        ("params=5000", r"write \+5000"),
        ("params=-1%", "is no amount"),
        ("sites=2.5", "whole number"),
        ("sites=-1", "whole number"),
        ("sites=1,sites=2", "once"),
        ("", "cannot limit"),
        ({}, "once"),
        (3, "must be a text"),
    ],
)
def test_nonsense_is_one_sentence(given: Any, said: str) -> None:
    with pytest.raises(AttnInjectError, match=said) as raised:
        budget_of(given)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("dimensions", [0, 1, 2])
def test_the_best_set_is_that_of_brute_force(dimensions: int) -> None:
    draw = random.Random(dimensions)
    for _ in range(30):
        groups = [
            [
                Item(draw.random(), tuple(draw.randint(0, 9) for _ in range(dimensions)))
                for _ in range(draw.randint(1, 2))
            ]
            for _ in range(6)
        ]
        limits = [float(draw.randint(0, 25)) for _ in range(dimensions)]
        taken, exact = best_set(groups, limits)
        best = max(
            sum(item.worth for item in each if item is not None)
            for each in itertools.product(*([None, *group] for group in groups))
            if within([sum(i.costs[d] for i in each if i is not None) for d in range(dimensions)], limits)
        )
        assert exact
        assert sum(item.worth for item in taken) == pytest.approx(best)
        assert within([sum(item.costs[d] for item in taken) for d in range(dimensions)], limits)


def test_too_many_states_are_cut_off_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_STATES", 20)
    draw = random.Random(0)
    groups = [[Item(draw.random(), (draw.random(), draw.random()))] for _ in range(24)]
    taken, exact = best_set(groups, [6.0, 6.0])
    assert not exact
    assert taken
    assert within([sum(item.costs[d] for item in taken) for d in range(2)], [6.0, 6.0])


def candidates() -> list[Candidate]:
    """ECA and SE at the nine sites of a ResNet-20; the later, the more it is worth, and SE more than ECA."""
    found = []
    for label, attention, bonus in (("eca", "eca", 0.0), ("se", "se", 0.15)):
        for index, insertion in enumerate(make_plan(models()["resnet20"](), attention).insertions):
            worth = 0.1 * index + bonus
            price = Price(
                params=3 if label == "eca" else insertion.channels**2 // 8, flops=100, traffic=50, latency=0.01
            )
            found.append(Candidate(insertion, label, price, Effect(worth, worth - 0.05, worth + 0.05)))
    return found


@pytest.mark.parametrize("text", ["sites=4", "params=+1%", "params=+300", "flops=+3%", "latency=1.035,sites=5"])
def test_each_kind_of_budget_is_kept(text: str) -> None:
    budget, found = budget_of(text), candidates()
    chosen, exact = chosen_of(found, budget, PLAIN, mixed=True)
    assert exact
    assert fits(chosen, budget, PLAIN)
    assert chosen
    blocks = [each.insertion.site.block for each in chosen]
    assert len(set(blocks)) == len(blocks)
    one, _ = chosen_of(found, budget, PLAIN, mixed=False)
    assert len({each.label for each in one}) == 1
    assert sum(c.worth.mean for c in one) <= sum(c.worth.mean for c in chosen)
    for way in ways(chosen, found, budget, PLAIN, seeds=3):
        assert way.name == "all" or all(fits(each, budget, PLAIN) for each in way.sets)


def test_what_does_not_pay_is_not_chosen_whatever_it_costs() -> None:
    found = [replace(each, worth=Effect(each.worth.mean, -0.01, 1.0)) for each in candidates()]
    assert chosen_of(found, budget_of(None), PLAIN, mixed=True) == ([], True)
    unsure = [replace(each, worth=Effect(1.0, None, None)) for each in candidates()]
    assert chosen_of(unsure, budget_of(None), PLAIN, mixed=True) == ([], True)
    assert together([]).latency == 0


def test_a_latency_is_told_by_traffic_until_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"steps": 1, "seeds": 1, "budget": "latency=1.5"}
    made = study_choice(Net().eval(), "eca", batches(64, 8), bench_seconds=0, **settings)
    assert (made.basis, made.latency) == ("traffic", None)
    assert any("bytes read and written stand in" in note for note in made.notes)
    assert sum(site.price.latency for site in made.sites) == pytest.approx(
        sum(site.price.traffic for site in made.sites) / made.plain.traffic
    )

    def race(ratio: float, low: float, contended: int = 0) -> Any:
        def run(*_: Any) -> dict[str, float]:
            return {"ratio": ratio, "low": low, "high": 1.21, "confidence": 0.95, "pairs": 30, "contended": contended}

        return run

    for run, basis in ((race(1.2, 1.19), "measured"), (race(1.2, 0.99), "traffic"), (race(1.2, 1.19, 1), "traffic")):
        monkeypatch.setattr(weighing, "race", run)
        made = study_choice(Net().eval(), "eca", batches(64, 8), **settings)
        assert made.basis == basis
        if basis == "measured":
            assert sum(site.price.latency for site in made.sites) == pytest.approx(0.2)
    assert any("while other work kept the machine busy" in note for note in made.notes)


def test_a_set_that_a_race_shows_beyond_the_budget_is_chosen_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    raced: list[int] = []

    def race(_plain: Any, patched: Any, *_: Any) -> dict[str, float]:
        sites = len(patched.injection.plan.insertions)
        raced.append(sites)
        ratio = 1 + 0.05 * sites
        return {
            "ratio": ratio, "low": ratio - 0.001, "high": ratio + 0.001, "confidence": 0.95, "pairs": 30, "contended": 0
        }  # fmt: skip

    monkeypatch.setattr(weighing, "race", race)
    monkeypatch.setattr(weighing, "hull", lambda *_: Effect(1.0, 0.5, 1.5))
    made = study_choice(Net().eval(), "eca", batches(64, 8), budget="latency=1.12", steps=1, seeds=1, bench_seconds=1)
    assert raced[0] == 3
    assert len(made.plan.insertions) <= 2
    assert made.latency is not None
    assert made.latency.ratio <= 1.12
    dear: list[int] = []

    def dearer(_plain: Any, patched: Any, *_: Any) -> dict[str, float]:
        dear.append(len(patched.injection.plan.insertions))
        ratio = 1.3 if dear == [3] else 1.5
        return {"ratio": ratio, "low": ratio, "high": ratio, "confidence": 0.95, "pairs": 30, "contended": 0}

    monkeypatch.setattr(weighing, "race", dearer)
    made = study_choice(Net().eval(), "eca", batches(64, 8), budget="latency=1.12", steps=1, seeds=1, bench_seconds=1)
    assert made.plan.insertions == ()
    assert dear == [3, 1]
