"""Every network of `models.py`: the blocks its code has, the model itself with gates of one, gradients, other sizes."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import GuardError, PlanError, attach, attention_parameters, find_sites, inject
from attn_inject.tracing.inputs import tensors_in

from .models import RECORDED, RECORDED_WITHOUT, WILD, WITHOUT, Wild

pytestmark = pytest.mark.wild


# Ten decoders around six encoders: each with every other one of those, the rest by hand.
_SEGMENTATION = [str(wild) for wild in WILD if "segmentation" in wild.package and not wild.name.startswith("DPT")]
BY_HAND = {name for i, name in enumerate(_SEGMENTATION) if (i // 6 + i) % 2}


def _available(wild: Wild) -> Any:
    missing = importlib.util.find_spec(wild.package) is None
    marks = [pytest.mark.skip(reason=f"no {wild.package}")] * missing + [pytest.mark.bench] * (str(wild) in BY_HAND)
    return pytest.param(wild, id=str(wild), marks=marks)


def _outputs(model: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(0)
    with torch.no_grad():
        return list(tensors_in(model(image)))


def _equal(one: nn.Module, other: nn.Module, image: torch.Tensor) -> bool:
    pairs = list(zip(_outputs(one, image), _outputs(other, image), strict=True))
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("wild", [_available(wild) for wild in WILD])
def test_other_peoples_models(wild: Wild) -> None:
    torch.manual_seed(0)
    model = wild.made()
    sites = find_sites(model, input_size=wild.size, kinds=("residual",))
    assert sorted(site.block for site in sites) == wild.expected(model)
    assert len(sites) > 0

    # The verification compares the graphs with the model in both modes, and asks each new parameter for a gradient.
    patched = inject(model, "se", reduction=4, init="identity", input_size=wild.size, kinds=("residual",))
    checks = {check.name: check for check in patched.injection.verification.checks}
    assert "not compared" not in checks["trace"].figure
    assert checks["gradients"].figure.startswith(f"{2 * len(sites)} of {2 * len(sites)} ")
    image = torch.randn(2, *wild.size)
    for mode in (True, False):
        assert _equal(model.train(mode), patched.train(mode), image)

    # A bag of images stays one.
    larger = torch.randn(1, *wild.size[:-2], *(extent * 2 for extent in wild.size[-2:]))
    if wild.fixed:
        for network in (model, patched):
            with pytest.raises((GuardError, RuntimeError)):
                network.eval()(larger)
    else:
        try:
            assert _equal(patched.eval(), model.eval(), larger)
        except GuardError:
            assert not patched.injection.any_size or patched.injection.guards

    gated = [_with_gates(make, model, wild) for make in (inject, attach)]
    if None not in gated:
        assert _equal(gated[0], gated[1], image)
        assert not _equal(gated[0], model, image)


@pytest.mark.parametrize("wild", [_available(wild) for wild in RECORDED])
def test_networks_that_decide_on_data(wild: Wild) -> None:
    torch.manual_seed(0)
    model = wild.made().eval()
    sites = find_sites(model, input_size=wild.size, kinds=("residual",))
    assert sites.recorded
    assert sorted(site.block for site in sites) == wild.expected(model) != []
    image = torch.randn(2, *wild.size)
    how: Any = {"input_size": wild.size, "kinds": ("residual",)}
    attached = attach(model, "se", reduction=4, init="identity", **how).eval()
    for mode in (True, False):
        assert _equal(model.train(mode), attached.train(mode), image)
    total = sum(part.sum() for part in tensors_in(attached(image)) if part.requires_grad)
    new = list(attention_parameters(attached))
    assert len(new) == 2 * len(sites)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(total, new))
    assert not _equal(model, attach(model, "se", reduction=4, **how).eval(), image)


@pytest.mark.parametrize("wild", [_available(wild) for wild in (*WITHOUT, *RECORDED_WITHOUT)])
def test_networks_without_skip_adds(wild: Wild) -> None:
    sites = find_sites(wild.made(), input_size=wild.size, kinds=("residual",))
    assert (list(sites), bool(sites.recorded)) == ([], wild in RECORDED_WITHOUT)


def _with_gates(make: Any, model: nn.Module, wild: Wild, scope: str | None = None) -> Any:
    torch.manual_seed(1)
    try:
        size = wild.size if scope is None else None
        return make(model, "eca", input_size=size, kinds=("residual",), scope=scope).eval()
    except PlanError as error:
        assert make is attach
        assert "use inject" in str(error)
        return None


def _scope(wild: Wild, model: Any) -> str:
    """The part of the network that finds features, as its package calls it."""
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    named = "encoder" if wild.package == "segmentation_models_pytorch" else "backbone"
    return named if named in sizes else max(sizes, key=lambda name: sizes[name])


def _has_one_part(wild: Wild) -> bool:
    """Every architecture once, and every classifier that takes other sizes than the one it is tried at."""
    if wild.name.startswith("MobileViTFor"):
        return False
    return "ForImageClassification" in wild.name or wild.name.endswith(("-resnet18", "Unet-mobilenet_v2", "UperNet"))


HEADED = [wild for wild in WILD if _has_one_part(wild)]


@pytest.mark.parametrize("wild", [_available(wild) for wild in HEADED])
def test_one_part_in_its_place(wild: Wild) -> None:
    torch.manual_seed(0)
    model: Any = wild.made()
    scope = _scope(wild, model)
    patched: Any = inject(model, "se", reduction=4, init="identity", kinds=("residual",), scope=scope)
    assert not [loss for loss in patched.injection.not_kept if "trial" in loss]
    # The encoders of U-Nets may leave their last stages out, and pyramids their decoder's.
    blocks = [f"{scope}.{insertion.site.block}" for insertion in patched.injection.plan.insertions]
    assert blocks
    assert set(blocks) <= set(wild.expected(model))
    image = torch.randn(2, *wild.size)
    for mode in (True, False):
        assert _equal(model.train(mode), patched.train(mode), image)
    gated, attached = _with_gates(inject, model, wild, scope), _with_gates(attach, model, wild, scope)
    assert not _equal(gated, model, image)
    if attached is not None:
        assert _equal(gated, attached, image)
