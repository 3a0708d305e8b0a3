"""A plan as a recipe: read back, it makes the plan again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import Plan, PlanError, find_sites, make_plan
from attn_inject.planning.plan import locate_and_plan
from attn_inject.planning.recipe import parse_recipe
from attn_inject.planning.recipe_text import recipe_text
from attn_inject.types import Source
from attn_inject.zoo.cifar import models
from tests.studying.worthy import CHANNELS, Block

ABOUT: dict[str, Any] = {"name": "mine", "title": "chosen: some", "paper": "a study", "parameters": 270_000}


def again(model: nn.Module, plan: Plan) -> Plan:
    """The plan that its recipe makes."""
    sites = find_sites(model, input_size=plan.input_shape[1:] if plan.input_shape else None, kinds=plan.kinds)
    recipe = parse_recipe(recipe_text(plan, sites, **ABOUT).encode())
    assert (recipe.expect_sites, recipe.expect_parameters) == (len(plan.insertions), 270_000)
    return locate_and_plan(model, replace(recipe.choices, source=plan.source))[1]


@pytest.mark.parametrize("attention", ["eca", "se:reduction=4", "cbam"])
def test_some_sites_of_many(attention: str) -> None:
    model = models()["resnet20"]()
    plan = make_plan(model, attention, init="identity", input_size=32, source=Source("cifar", "resnet20"))
    some = replace(plan, insertions=plan.insertions[1:8:3])
    assert again(model, some).insertions == some.insertions


class Rooted(nn.Module):
    """A block within, and one that is the model's own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.own = Block({}), Block({})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(x)
        return x + self.own.conv2(torch.relu(self.own.conv1(x)))


@pytest.mark.parametrize("index", [0, 1])
def test_a_site_of_the_model_itself(index: int) -> None:
    plan = make_plan(
        Rooted(), "eca", init="identity", input_size=(CHANNELS, 4, 4), source=Source("file", "net.py:Rooted")
    )
    assert [insertion.site.block for insertion in plan.insertions] == ["inner", ""]
    one = replace(plan, insertions=plan.insertions[index : index + 1])
    assert again(Rooted(), one).insertions == one.insertions
    assert again(Rooted(), plan).insertions == plan.insertions


def test_what_a_recipe_cannot_say() -> None:
    model = models()["resnet20"]()
    source = Source("cifar", "resnet20")
    plan, sites = make_plan(model, "eca", source=source), find_sites(model)
    other = make_plan(model, "se", source=source)
    for wrong, there, said in (
        (replace(plan, insertions=()), sites, "needs sites"),
        (replace(plan, source=None), sites, "built by its name"),
        (replace(plan, insertions=(*plan.insertions[:1], *other.insertions[1:])), sites, "one attention"),
        (plan, [*sites, sites[0]], "layer1.0 has 2 sites"),
    ):
        with pytest.raises(PlanError, match=said):
            recipe_text(wrong, there, **ABOUT)
