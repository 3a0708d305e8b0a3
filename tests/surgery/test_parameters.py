"""The new parameters of a patched model: listed once, under their names, and trained alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attn_inject import PlanError, attention_parameters, attention_state_dict, freeze_original, inject

from ..toys import SPELLINGS, Block, Toy

SIZE = (3, 16, 16)


def model() -> nn.Module:
    torch.manual_seed(0)
    return Toy(nn.Sequential(Block(SPELLINGS["+"]), Block(SPELLINGS["+"])))


NEW = [f"body.{i}.se.fc{j}.weight" for i in (0, 1) for j in (1, 2)]


def test_the_parameters_in_the_order_of_the_places() -> None:
    patched = inject(model(), "se", reduction=4, input_size=SIZE)
    named = dict(patched.named_parameters())
    assert [id(parameter) for parameter in attention_parameters(patched)] == [id(named[name]) for name in NEW]


def test_a_parameter_that_places_share_comes_once() -> None:
    patched = inject(model(), "eca", input_size=SIZE)
    first, second = patched.get_submodule("body.0.eca.conv"), patched.get_submodule("body.1.eca.conv")
    second.weight = first.weight
    second.bias = nn.Parameter(torch.zeros(1))
    assert [id(parameter) for parameter in attention_parameters(patched)] == [id(first.weight), id(second.bias)]


@pytest.mark.parametrize("scope", [None, "net", "nets.0"])
def test_the_part_of_the_state_dict_under_its_own_names(scope: str | None) -> None:
    whole = {
        None: model,
        "net": lambda: nn.ModuleDict({"net": model()}),
        "nets.0": lambda: nn.ModuleDict({"nets": nn.ModuleList([model()])}),
    }[scope]()
    patched = inject(whole, "se", reduction=4, input_size=SIZE, scope=scope)
    state, prefix = attention_state_dict(patched), f"{scope}." if scope else ""
    assert list(state) == [prefix + name for name in NEW]
    assert all(state[name].data_ptr() == patched.state_dict()[name].data_ptr() for name in state)
    assert not any(tensor.requires_grad for tensor in state.values())
    assert len(list(attention_parameters(patched))) == 4


def test_a_module_whose_name_only_begins_alike_is_not_new() -> None:
    whole = model()
    whole.body[0].sense = nn.Linear(2, 2)
    patched = inject(whole, "se", reduction=4, input_size=SIZE, name="sen")
    assert list(attention_state_dict(patched)) == [name.replace(".se.", ".sen.") for name in NEW]


@pytest.mark.parametrize("scope", [None, "net"])
def test_freezing_leaves_the_new_parameters_alone_to_train(scope: str | None) -> None:
    original = model() if scope is None else nn.ModuleDict({"net": model(), "other": nn.Linear(2, 2)})
    patched = inject(original, "se", reduction=4, input_size=SIZE, scope=scope)
    patched.requires_grad_(False)
    assert freeze_original(patched) is patched
    prefix = f"{scope}." if scope else ""
    assert [name for name, p in patched.named_parameters() if p.requires_grad] == [prefix + name for name in NEW]
    assert all(parameter.requires_grad for parameter in original.parameters())


def test_a_model_without_new_parameters_has_none() -> None:
    for verb in (lambda m: list(attention_parameters(m)), attention_state_dict, freeze_original):
        with pytest.raises(PlanError) as caught:
            verb(model())
        assert str(caught.value) == "Toy is not a model that inject() or attach() returned"
