"""A plan is a value: made by one call, changed by hand, carried out by another, refused where it does not fit."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from attn_inject import InjectedModule, PlanError, RewriteError, apply_plan, inject, make_plan, remove
from attn_inject.tracing.nodes import value_of
from attn_inject.tracing.parts import injected_part

from ..toys import Block, Lambda, Toy, conv

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


class Harmful(nn.Module):
    """An attention that gives what is no number, and has a parameter that it does not use."""

    traced_whole = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.used, self.idle = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.used * torch.nan


def test_a_result_that_fails_its_checks_is_refused_unless_nobody_checks() -> None:
    model = _model()
    plan = make_plan(model, Harmful, input_size=SIZE, include="body.0")
    failures = (
        "verification of finite failed: 5 non-finite outputs on an input of 1x3x16x16; verification of gradients "
        "failed: 1 of 2 new parameters reached, 1 with a gradient other than zero; not body.0.harmful.idle"
    )
    for make in (
        lambda: apply_plan(model, plan),
        lambda: inject(model, Harmful, input_size=SIZE, include="body.0"),
    ):
        with pytest.raises(RewriteError) as caught:
            make()
        assert str(caught.value) == failures
    assert apply_plan(model, plan, check=False).injection.verification is None


def _traced_shape(patched: nn.Module) -> tuple[int, ...]:
    value = value_of(next(iter(injected_part(patched)[0].graph_of("eval").nodes)))
    return tuple(value.shape)


def test_a_plan_is_carried_out_at_the_size_it_was_made_for_unless_inputs_are_given() -> None:
    model = _model()
    plan = make_plan(model, "eca", input_size=(3, 24, 20))
    assert _traced_shape(apply_plan(model, plan)) == (2, 3, 24, 20)
    assert _traced_shape(apply_plan(model, plan, example_inputs=torch.zeros(5, 3, 8, 12))) == (5, 3, 8, 12)
    guessed = apply_plan(model, replace(plan, input_shape=None), check=False)
    assert _traced_shape(guessed) == make_plan(model, "eca").input_shape
    # The channels of the input are the plan's too: the first convolution of this model has three times as many.
    grey = Lambda(lambda m, x: m.net(x.repeat(1, 3, 1, 1)), net=model)
    plan_of_one = make_plan(grey, "eca", input_size=(1, 16, 16))
    assert _traced_shape(apply_plan(grey, plan_of_one)) == (2, 1, 16, 16)
    with_kinds = make_plan(model, "eca", input_size=SIZE, kinds=("stage",))
    assert apply_plan(model, with_kinds).injection.plan == with_kinds


def test_what_is_not_kept_of_the_patched_part_is_in_the_record() -> None:
    class Rich(Toy):
        def extra(self, x: torch.Tensor) -> torch.Tensor:
            stem: torch.Tensor = self.stem(x)
            return stem

    model = nn.ModuleDict({"net": Rich(Block(lambda a, b: a + b))})
    plan = make_plan(model, "eca", input_size=SIZE, scope="net")
    assert any("extra()" in loss for loss in injected_part(apply_plan(model, plan))[0].injection.not_kept)


def _replaceable() -> nn.Module:
    torch.manual_seed(0)
    layers = {"c1": conv(16, 8, 1), "c2": nn.Sequential(conv(8, 8)), "c3": conv(8, 16, 1)}
    return Toy(Lambda(lambda m, x: x + m.c3(torch.relu(m.c2(torch.relu(m.c1(x))))), **layers))


@pytest.mark.parametrize("scope", [None, "net", "nets.net"])
def test_removing_gives_the_model_back_and_leaves_the_patched_one(scope: str | None) -> None:
    model = _replaceable()
    for home in reversed(scope.split(".") if scope else []):
        model = nn.ModuleDict({home: model})
    patched = inject(model, "psa", placement="replace", input_size=SIZE, scope=scope)
    prefix = f"{scope}." if scope else ""
    keys = list(patched.state_dict())
    bare = remove(patched)
    assert list(bare.state_dict()) == list(model.state_dict())
    assert list(patched.state_dict()) == keys
    assert patched.injection.plan.insertions
    (part, where), (still, _) = injected_part(bare), injected_part(patched)
    assert where == (scope or "")
    plan = part.injection.plan
    assert (plan.insertions, plan.removals, plan.notes, part.injection.verification) == ((), (), (), None)
    assert (plan.attention, plan.scope, part.displaced) == ("psa", scope, {})
    for mode in ("eval", "train"):
        assert "body.c2.0" in [node.target for node in part.graph_of(mode).nodes]
        assert part.graph_of(mode) is not part.pristine_graph_of(mode)
        assert part.pristine_graph_of(mode) is not still.pristine_graph_of(mode)
    if scope:
        assert type(bare) is nn.ModuleDict
        assert not hasattr(bare, "injection")
    # The displaced module is back over the same memory, in a module of its own.
    back = bare.get_submodule(f"{prefix}body.c2.0")
    assert back is not still.displaced["body.c2.0"]
    assert isinstance(back, nn.Conv2d)
    assert back.weight.data_ptr() == model.state_dict()[f"{prefix}body.c2.0.weight"].data_ptr()
    x = torch.randn(1, *SIZE)
    net = bare.get_submodule(scope) if scope else bare
    assert torch.equal(net.eval()(x), _replaceable().eval()(x))


def test_removals_are_taken_back_too() -> None:
    torch.manual_seed(0)
    gate = Lambda(lambda m, x: x * torch.sigmoid(m.up(x.mean((2, 3), keepdim=True))), up=conv(16, 16, 1))
    block = Lambda(lambda m, x: x + m.se(m.b(torch.relu(m.a(x)))), a=conv(16, 16), b=conv(16, 16), se=gate)
    model = Toy(block).eval()
    stripped = inject(model, "none", existing="replace", input_size=SIZE)
    assert (len(stripped.injection.plan.removals), len(stripped.injection.plan.notes)) == (1, 1)
    bare = remove(stripped)
    assert isinstance(bare, InjectedModule)
    assert (bare.injection.plan.removals, bare.injection.plan.notes) == ((), ())
    x = torch.randn(1, *SIZE)
    assert torch.equal(bare(x), model(x))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scope", [None, "net"])
def test_removing_keeps_the_mode(training: bool, scope: str | None) -> None:
    model = _model() if scope is None else nn.ModuleDict({"net": _model()})
    patched = inject(model, "eca", input_size=SIZE, scope=scope).train(training)
    bare = remove(patched)
    assert {module.training for module in bare.modules()} == {training}
    bare.train(not training)
    assert {module.training for module in patched.modules()} == {training}


def test_what_was_not_patched_has_nothing_to_remove() -> None:
    with pytest.raises(PlanError, match=r"^Toy is not a model that inject\(\) or attach\(\) returned$"):
        remove(_model())
