"""A plan is a value: made by one call, changed by hand, carried out by another, refused where it does not fit."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from attn_inject import PlanError, apply_plan, inject, make_plan

from ..toys import Block, Toy

SIZE = (3, 16, 16)


def _model(width: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return Toy(nn.Sequential(*(Block(lambda a, b: a + b, width, width) for _ in range(3))), width, width)


def test_a_plan_carried_out_is_what_inject_does() -> None:
    model = _model()
    plan = make_plan(model, "eca", input_size=SIZE, init="identity")
    patched = apply_plan(model, plan)
    assert patched.injection.plan == plan == inject(model, "eca", input_size=SIZE, init="identity").injection.plan
    assert patched.injection.verification
    x = torch.randn(2, *SIZE)
    assert torch.equal(patched.eval()(x), model.eval()(x))


def test_a_plan_survives_pickling_and_leaving_blocks_out() -> None:
    model = _model()
    plan = pickle.loads(pickle.dumps(make_plan(model, "se", reduction=2, input_size=SIZE)))
    fewer = replace(plan, insertions=plan.insertions[1:])
    patched = apply_plan(model, fewer)
    new = {name.split(".se.")[0] for name in patched.state_dict() if ".se." in name}
    assert new == {"body.1", "body.2"}


@pytest.mark.parametrize("where", ["insertion", "site"])
def test_a_plan_for_other_channels_is_refused(where: str) -> None:
    model = _model()
    plan = make_plan(model, "eca", input_size=SIZE)
    first = plan.insertions[0]
    wrong = (
        replace(first, channels=24) if where == "insertion" else replace(first, site=replace(first.site, channels=24))
    )
    with pytest.raises(PlanError, match=r"^the plan is for 24 channels at body\.0, the model has 16$"):
        apply_plan(model, replace(plan, insertions=(wrong, *plan.insertions[1:])))
    with pytest.raises(PlanError, match=r"^the plan is for 16 channels at body\.0, the model has 24$"):
        apply_plan(_model(24), plan)


def test_a_plan_for_blocks_that_are_not_there_is_refused() -> None:
    plan = make_plan(_model(), "eca", input_size=SIZE)
    shorter = Toy(nn.Sequential(Block(lambda a, b: a + b)))
    with pytest.raises(PlanError, match=r"^the model has no residual site 0 in block body\.1$"):
        apply_plan(shorter, plan)
