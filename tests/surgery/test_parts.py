"""Submodules that are patched one after the other are one patched model, for every verb."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import (
    PlanError,
    attach,
    attention_parameters,
    attention_state_dict,
    detach,
    freeze_original,
    inject,
    optimize,
    optimize_training,
    remove,
    verify,
)
from attn_inject.optimizing.train_steps import scale_and_add
from attn_inject.surgery.forms import as_graph
from attn_inject.surgery.records import records_of
from attn_inject.tracing.injected import InjectedModule
from attn_inject.tracing.parts import patched_parts

from ..parted import ATTENTIONS, SCOPES, parted

SIZE = {"encoder": (3, 16, 16), "inner.decoder": (16, 16, 16), "inner.last": (16, 16, 16)}
SE = ["se.fc1.weight", "se.fc2.weight"]
FORMS = [inject, attach]
NEW = [
    *(f"encoder.{name}" for name in SE),
    "inner.decoder.eca.conv.weight",
    *(f"inner.last.{name}" for name in SE),
]


def patched(model: nn.Module, order: tuple[int, ...] = (0, 1, 2), verb: Any = inject, **options: Any) -> nn.Module:
    for i in order:
        more = {"reduction": 4} if ATTENTIONS[i] == "se" else {}
        torch.manual_seed(i)
        model = verb(model, ATTENTIONS[i], scope=SCOPES[i], input_size=SIZE[SCOPES[i]], **more, **options)
    return model.eval()


@pytest.mark.parametrize("verb", FORMS)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.slow
def test_the_new_parameters_are_those_of_all_parts(order: tuple[int, ...], verb: Any) -> None:
    model = patched(parted(), order, verb)
    assert {scope for scope, _ in records_of(model)} == set(SCOPES)
    named = dict(model.named_parameters())
    assert [id(p) for p in attention_parameters(model)] == [id(named[name]) for name in NEW]
    assert list(attention_state_dict(model)) == NEW
    model.requires_grad_(False)
    freeze_original(model)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == NEW


def test_the_record_is_the_last_parts_and_names_the_others() -> None:
    model = patched(parted(), (2, 0, 1))
    record: Any = model.injection
    parts = patched_parts(model)
    assert record.plan == parts["inner.decoder"].injection.plan
    assert record.others == (parts["encoder"].injection, parts["inner.last"].injection)
    assert all(not part.injection.others for part in parts.values())
    # Each knows the model that it was made for, not the one that had attention already.
    assert len({part.injection.fingerprint for part in parts.values()}) == 1


def test_more_attention_in_a_part_that_has_some() -> None:
    model = patched(parted(), (0, 1))
    again: Any = inject(model, "eca", scope="encoder", kinds=("stage",), input_size=SIZE["encoder"])
    assert again.injection.plan.scope == "encoder"
    assert [other.plan.scope for other in again.injection.others] == ["inner.decoder"]
    assert len(list(attention_parameters(again))) == len(list(attention_parameters(model))) + 1


@pytest.mark.parametrize("verb", FORMS)
@pytest.mark.slow
def test_the_parts_compute_together_and_removing_takes_all_out(verb: Any) -> None:
    original = parted()
    model = patched(original, verb=verb)
    x = torch.randn(2, 3, 16, 16)
    steps = [patched(original, order, verb) for order in ((0,), (0, 1))]
    outputs = [m(x) for m in (original, *steps, model)]
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(outputs))
    bare = remove(model)
    assert torch.equal(bare(x), original(x))
    assert list(bare.state_dict()) == list(original.state_dict())
    assert not hasattr(bare, "injection")
    assert torch.equal(model(x), outputs[-1])


def test_every_part_is_verified() -> None:
    original = parted()
    model = patched(original, init="identity")
    verification = verify(original, model)
    assert verification.passed
    checks = {check.name: check for check in verification.checks}
    assert {"edits", "weights", "shapes", "trace", "finite", "gradients", "identity"} == set(checks)
    assert all(all(f"{scope}: " in check.figure for scope in SCOPES) for check in checks.values())
    for scope in SCOPES:
        harmed = copy.deepcopy(model)
        with torch.no_grad():
            harmed.get_submodule(scope).get_submodule("stem").bias.add_(1)
        failed = [check for check in verify(original, harmed).checks if not check.passed]
        assert "weights" in [check.name for check in failed]
        assert all(f"{scope}: " in check.figure for check in failed)


@pytest.mark.parametrize("verb", FORMS)
@pytest.mark.slow
def test_a_faster_training_step_in_every_part(verb: Any) -> None:
    model = patched(parted().double(), verb=verb)
    twin = copy.deepcopy(model)
    fast = optimize_training(twin)
    assert type(fast) is type(model)
    for fasts, twins in zip(fast.parameters(), twin.parameters(), strict=True):
        # A graph made of what `attach` returned has parameters of its own over the same memory.
        assert fasts is twins if verb is inject else fasts.data_ptr() == twins.data_ptr()
    for scope in SCOPES:
        graphs = [m.get_submodule(scope).graph_of("train") for m in (fast, as_graph(twin))]
        assert [sum(node.target is scale_and_add for node in graph.nodes) for graph in graphs] == [1, 0]
    x = torch.randn(2, 3, 16, 16).double()
    for each in (model, fast):
        each.train()(x).square().sum().backward()
    for ours, theirs in zip(fast.named_parameters(), model.named_parameters(), strict=True):
        torch.testing.assert_close(ours[1].grad, theirs[1].grad, rtol=1e-10, atol=1e-10)
    with pytest.raises(PlanError, match="example_inputs are for one part: optimize encoder and inner.decoder and"):
        optimize_training(twin, example_inputs=x)


def test_what_lies_in_a_graph_is_no_part_of_its_own() -> None:
    original = parted()
    whole = inject(original, "se", reduction=4, input_size=16)
    with pytest.raises(PlanError, match=r"^encoder lies in the model, which is a graph .* inject with no scope"):
        inject(whole, "eca", scope="encoder", input_size=SIZE["encoder"])
    part: nn.Module = inject(original, "se", reduction=4, scope="inner.last", kinds=("residual", "stage"))
    with pytest.raises(PlanError, match=r"^inner.last.body lies in inner.last, .* inject with scope='inner.last'"):
        inject(part, "eca", scope="inner.last.body", kinds=("stage",), input_size=SIZE["inner.last"])
    with pytest.raises(PlanError, match=r"^inner.last was patched by itself"):
        inject(part, "eca", input_size=16)


def test_attached_and_injected_attention_do_not_mix() -> None:
    attached = attach(parted(), "se", reduction=4, scope="encoder", input_size=SIZE["encoder"])
    for scope in (None, "encoder", "inner.last"):
        size = SIZE.get(scope or "encoder")
        with pytest.raises(PlanError, match=r"^attach\(\) put attention into this model, which a graph would lose"):
            inject(attached, "eca", scope=scope, input_size=size)
    injected: nn.Module = inject(parted(), "se", reduction=4, scope="encoder", input_size=SIZE["encoder"])
    with pytest.raises(PlanError, match=r"^inject\(\) patched this model before"):
        attach(injected, "eca", scope="inner.last", input_size=SIZE["inner.last"])


def test_all_that_was_attached_is_detached() -> None:
    original = parted()
    attached = patched(original, (0, 2, 1), attach)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(attached(x), patched(original, (0, 2, 1))(x))
    record: Any = attached.injection
    assert [other.plan.scope for other in record.others] == ["encoder", "inner.last"]
    bare = detach(attached)
    assert torch.equal(bare(x), original(x))
    assert list(bare.state_dict()) == list(original.state_dict())
    with pytest.raises(PlanError, match="nothing was attached"):
        detach(bare)


def test_a_patched_model_in_anothers_place_counts_too() -> None:
    holder = nn.Sequential(inject(parted(), "se", reduction=4, input_size=16), nn.Flatten())
    assert isinstance(holder[0], InjectedModule)
    assert {name.split(".")[0] for name in attention_state_dict(holder)} == {"0"}


@pytest.mark.parametrize("verb", FORMS)
@pytest.mark.parametrize("order", [(0,), (0, 1, 2)])
@pytest.mark.slow
def test_every_part_is_optimized_in_its_place(order: tuple[int, ...], verb: Any) -> None:
    model = patched(parted().double(), order, verb)
    x = torch.randn(2, 3, 16, 16).double()
    before, state, mode = model(x), model.state_dict(), [m.training for m in model.train().modules()]
    fast = optimize(model)
    assert type(fast) is type(model)
    assert fast.rewritten.adds_fused == fast.rewritten.norms_folded == len(order)
    assert [fast.get_submodule(SCOPES[i]).rewritten.adds_fused for i in order] == [1] * len(order)
    assert not any(module.training for module in fast.modules())
    assert not any(p.requires_grad for p in fast.parameters())
    torch.testing.assert_close(fast(x), before, rtol=1e-10, atol=1e-10)
    # The patched model is what it was.
    assert mode == [m.training for m in model.modules()]
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.eval()(x), before)
    for again in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), optimize(pickle.loads(pickle.dumps(model)))):
        assert torch.equal(again(x), fast(x))
    with pytest.raises(PlanError, match="an optimized model is for inference"):
        fast.train()
    for asks in (patched_parts, optimize, attention_parameters):
        with pytest.raises(PlanError, match="is not a model that inject"):
            list(asks(fast))
    with pytest.raises(PlanError, match=r"^example_inputs are for one part: optimize encoder"):
        optimize(model, example_inputs=x)


def test_a_graph_is_optimized_out_of_its_place_too() -> None:
    encoder = patched(parted().double()).get_submodule("encoder")
    x = torch.randn(2, 3, 16, 16).double()
    torch.testing.assert_close(optimize(encoder)(x), encoder(x), rtol=1e-10, atol=1e-10)
