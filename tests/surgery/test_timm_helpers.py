"""What timm's training code does with a model, on attached ones: the attention takes part in all of it."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import timm
import torch
from timm.data.config import resolve_data_config
from timm.optim._optim_factory import create_optimizer_v2
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from attn_inject import attach, attention_parameters

from ..before_after import every_gate_runs

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def plain() -> Any:
    torch.manual_seed(0)
    # timm's branches start at zero, and what gates a zero learns nothing in the first step.
    return timm.create_model("test_resnet", num_classes=7, zero_init_last=False)


@pytest.fixture
def attached(plain: Any) -> Any:
    return attach(plain, "se", reduction=4)


def _gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model.train()(IMAGE).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_layer_decay_counts_the_attention_to_its_block(attached: Any) -> None:
    optimizer = create_optimizer_v2(attached, opt="adamw", lr=0.1, weight_decay=0.05, layer_decay=0.7)
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    scales = []
    for insertion in attached.injection.plan.insertions:
        block = attached.get_submodule(insertion.site.block)
        (scale,) = {group_of[id(p)]["lr_scale"] for p in block.parameters()}
        scales.append(scale)
        gate = attached.get_submodule(insertion.module)
        assert group_of[id(gate.fc1.weight)]["weight_decay"] == 0.05
    assert scales == pytest.approx([0.7**4, 0.7**3, 0.7**2, 0.7])
    before = [p.clone() for p in attention_parameters(attached)]
    _gradients(attached)
    optimizer.step()
    assert not any(map(torch.equal, before, attention_parameters(attached)))


def test_the_average_follows_the_attention(attached: Any) -> None:
    average = ModelEmaV3(attached, decay=0.75)
    before = [p.clone() for p in attention_parameters(attached)]
    with torch.no_grad():
        for parameter in attention_parameters(attached):
            parameter.add_(1)
    average.update(attached)
    for old, followed in zip(before, attention_parameters(average.module), strict=True):
        torch.testing.assert_close(followed, old + 0.25, rtol=0, atol=1e-6)
    every_gate_runs(average.module, IMAGE)


def test_checkpointing_runs_the_gates_again_and_changes_no_gradient(attached: Any) -> None:
    kept = _gradients(copy.deepcopy(attached))
    runs: Counter[nn.Module] = Counter()
    gates = [attached.get_submodule(insertion.module) for insertion in attached.injection.plan.insertions]
    for gate in gates:
        # Before it, since a checkpoint stops as soon as it has what it wants.
        gate.register_forward_pre_hook(lambda module, _: runs.update([module]))
    attached.set_grad_checkpointing(enable=True)
    worked_out_again = _gradients(attached)
    assert runs == dict.fromkeys(gates, 2)
    assert worked_out_again.keys() == kept.keys()
    for name, gradient in kept.items():
        torch.testing.assert_close(worked_out_again[name], gradient, rtol=1e-5, atol=1e-6)


def test_a_new_classifier_has_the_attention_below_it(plain: Any, attached: Any) -> None:
    (before,) = every_gate_runs(attached, IMAGE)
    attached.reset_classifier(4)
    (given,) = every_gate_runs(attached, IMAGE)
    assert (before.shape, given.shape) == ((2, 7), (2, 4))
    assert attached.num_classes == attached.get_classifier().out_features == 4
    # The model that was handed in has its own still.
    assert plain.num_classes == plain.get_classifier().out_features == 7


def test_its_features_are_gated() -> None:
    torch.manual_seed(0)
    plain: Any = timm.create_model("test_resnet", features_only=True, zero_init_last=False).eval()
    attached: Any = attach(plain, "se", reduction=4)
    maps = every_gate_runs(attached, IMAGE)
    assert attached.feature_info.channels() == [each.shape[1] for each in maps]
    same = [torch.equal(ours, theirs) for ours, theirs in zip(maps, plain(IMAGE), strict=True)]
    assert same == [True, False, False, False, False]  # the first is the stem's


def test_its_images_are_prepared_as_the_networks(plain: Any, attached: Any) -> None:
    assert resolve_data_config({}, model=attached) == resolve_data_config({}, model=plain)
    assert resolve_data_config({}, model=attached)["input_size"] == (3, 160, 160)
