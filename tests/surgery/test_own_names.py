"""Models that hold something under a name that a patched one needs for itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import PlanError, attach, detach, inject, load, optimize, optimize_training, remove, save
from attn_inject.zoo.cifar import models

from ..toys import Residual, conv

X = torch.randn(2, 3, 8, 8)


class Named(nn.Module):
    def __init__(self, name: str, value: object) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 16), Residual(conv(16, 16), nn.ReLU(), conv(16, 16)))
        self.name = name
        setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held = getattr(self, self.name)
        return self.body(held(x) if isinstance(held, nn.Module) else x + 1.0 if held else x)


@pytest.mark.parametrize("value", [False, True, nn.Conv2d(3, 3, 1)])
@pytest.mark.parametrize("verb", [inject, attach])
@pytest.mark.parametrize("scope", [None, "body"])
def test_a_record_takes_no_attributes_place(verb: Any, value: object, scope: str | None) -> None:
    model = Named("injection", value).eval()
    before = model(X)
    with pytest.raises(PlanError, match=r"^this Named has an attribute 'injection' of its own[^\n]*another name$"):
        verb(model, "se", reduction=4, example_inputs=X, scope=scope)
    assert model.injection is value
    assert torch.equal(model(X), before)


@pytest.mark.parametrize("name", ["meta", "graph", "code", "recompile", "print_readable"])
@pytest.mark.slow
def test_what_a_graph_module_would_hide_is_refused_and_can_be_attached_to(name: str) -> None:
    model = Named(name, nn.Conv2d(3, 3, 1)).eval()
    with pytest.raises(PlanError, match=f"'{name}', which torch.fx.GraphModule has .* use attach"):
        inject(model, "se", reduction=4, example_inputs=X)
    assert torch.equal(attach(model, "se", reduction=4, example_inputs=X, init="identity")(X), model(X))


def test_what_was_patched_before_is_patched_on() -> None:
    model = Named("other", nn.Conv2d(3, 3, 1)).eval()
    once = inject(model, "se", reduction=4, example_inputs=X, scope="body")
    assert torch.equal(inject(model, "se", reduction=4, example_inputs=X, init="identity")(X), model(X))
    assert once.injection.plan.scope == "body"


def test_a_wrapper_of_what_attach_gave_is_no_way_in() -> None:
    attached = attach(models()["resnet20"](), "se", reduction=4)
    for wrapper, place in ((nn.Sequential(attached), "0"), (torch.optim.swa_utils.AveragedModel(attached), "module")):
        for verb in (detach, remove, optimize, optimize_training):
            with pytest.raises(PlanError, match=f"what attach.. gave is the {place} of this {type(wrapper).__name__}"):
                verb(wrapper)


@pytest.mark.parametrize("first", [torch.float32, torch.float16])
@pytest.mark.parametrize("form", ["graph", "module"])
def test_a_model_that_was_cast_after_it_was_patched_loads_onto_one_of_its_type(
    first: torch.dtype, form: Any, tmp_path: Path
) -> None:
    then = torch.float16 if first is torch.float32 else torch.float32
    model = Named("other", nn.Conv2d(3, 3, 1)).to(first)
    path = tmp_path / "net.pt"
    save(inject(model, "se", reduction=4, example_inputs=X.to(first)).to(then), path)
    loaded = load(path, Named("other", nn.Conv2d(3, 3, 1)).to(then), form=form)
    assert loaded(X.to(then)).dtype is then
