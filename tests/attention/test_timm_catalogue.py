"""timm's catalogue: every name its `create_attn` knows is listed or refused with a reason, and works as timm's own."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.layers.create_attn import create_attn
from torch import nn

from attn_inject import AttentionError, inject
from attn_inject.attention.registry import build, resolve
from attn_inject.attention.timm_made import _all_names, timm_names

from .. import toys

# What timm makes only with options that a channel count does not tell.
WITH_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "ge": ({"use_mlp": False}, "act_layer"),  # its MLP fails in timm 1.0.31 itself, and not in 1.0.15
    "bottleneck": ({"feat_size": (56, 56)}, "feature size"),
}
# What timm refuses at 7 channels.
FITTED = {
    "sk": ("with split_input True fitted to False",),
    "splat": ("with radix 2 fitted to 1",),
    "lambda": ("with num_heads 4 fitted to 1",),
    "halo": ("with num_heads 8 fitted to 7",),
}
# An extent that the windows of all of them divide, at every stage of a network that strides 8 times: 7 and 8.
EXTENTS = {"bat": 224, "halo": 256}


def test_every_name_of_timm_is_listed_or_wants_options() -> None:
    assert {*timm_names(), *WITH_OPTIONS} == set(_all_names())
    for name in timm_names():
        made = create_attn(name, 64).eval()
        x = torch.randn(1, 64, 56, 56)
        with torch.no_grad():
            assert made(x).shape == x.shape


@pytest.mark.parametrize("channels", [8, 64, 256])
@pytest.mark.parametrize("name", timm_names())
def test_builds_at_any_width(name: str, channels: int) -> None:
    module = build(f"timm:{name}", channels)
    assert type(module) is type(create_attn(name, channels))


@pytest.mark.parametrize("name", [name for name in WITH_OPTIONS if name not in timm_names()])
def test_those_that_want_options_say_so_and_work_with_them(name: str) -> None:
    options, words = WITH_OPTIONS[name]
    with pytest.raises(AttentionError, match=f"^timm:{name} cannot be made for 64 channels: .*{words}[^\n]*$"):
        build(f"timm:{name}", 64)
    module = build(f"timm:{name}", 64, options=options).eval()
    with torch.no_grad():
        assert module(x := torch.randn(1, 64, 56, 56)).shape == x.shape


@pytest.mark.parametrize("name", timm_names())
def test_heads_and_splits_are_fitted_to_an_odd_width(name: str) -> None:
    """Grouped or multi-headed ones need divisible channels; what timm makes itself is timm's own still."""
    module: Any = build(f"timm:{name}", 7).eval()
    try:
        create_attn(name, 7)
        said: tuple[str, ...] = ()
    except (AssertionError, ValueError):
        said = FITTED[name]
    assert getattr(module, "adjustments", ()) == said
    with torch.no_grad():
        assert module(x := torch.randn(1, 7, 56, 56)).shape == x.shape


def test_what_cannot_be_fitted_is_refused_in_one_sentence_with_a_mend() -> None:
    with pytest.raises(
        AttentionError, match=r"^timm:halo cannot be made for 7 channels: [^\n]+; give it other options"
    ):
        build("timm:halo", 7, options={"stride": 3})
    model = toys.Toy(toys.Block(toys.SPELLINGS["+"]))
    with pytest.raises(AttentionError, match=r"^body.halo: .* 16 channels: [^\n]+ \(exclude, min_channels\)$"):
        inject(model, "timm:halo", num_heads=-1, input_size=(3, 16, 16))


@pytest.mark.slow
@pytest.mark.parametrize("name", timm_names())
def test_works_in_a_model(name: str) -> None:
    """Forward, backward, and the identity start to the bit."""
    torch.manual_seed(0)
    model = toys.Toy(toys.Block(toys.SPELLINGS["+"], 16, 64), out=64)
    x = torch.randn(2, 3, 56, 56)
    patched = inject(model, f"timm:{name}", input_size=(3, 56, 56)).train()
    patched(x).square().sum().backward()
    (insertion,) = patched.injection.plan.insertions
    grads = {n: p.grad for n, p in patched.named_parameters()}
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
    new = [grad for path, grad in grads.items() if path.startswith(insertion.module)]
    assert any(grad.abs().max() > 0 for grad in new)
    same = inject(model, f"timm:{name}", init="identity", input_size=(3, 56, 56)).eval()
    with torch.no_grad():
        assert torch.equal(same(x), model.eval()(x))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.zoo] * (name not in ("se", "eca", "cbam"))) for name in timm_names()]
)
@pytest.mark.slow
def test_a_network_that_timm_builds_with_it_is_the_twin(name: str) -> None:
    """Strict loading and equal outputs, for the networks that timm can make but has no name for."""
    theirs = timm.create_model("resnet18", block_args={"attn_layer": name})
    size = EXTENTS.get(name, 64)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                # The statistics of one pass, so that eval outputs are of the size of train outputs.
                module.momentum = 1.0
        for parameter in theirs.parameters():
            if not parameter.any():
                parameter.copy_(torch.rand(parameter.shape, generator=generator) / 2)
        theirs.train()(x)
    plain = timm.create_model("resnet18")
    ours = inject(plain, f"timm:{name}", preset="timm", input_size=(3, size, size))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    plain.load_state_dict(theirs.state_dict(), strict=False)
    with torch.no_grad():
        for mode in (False, True):
            torch.manual_seed(2)
            a = ours.train(mode)(x)
            torch.manual_seed(2)
            b = theirs.train(mode)(x)
            assert b.isfinite().all()
            assert (a - b).abs().max() <= 1e-6
            # The attention does something here, so that this could fail.
            assert (b - plain.train(mode)(x)).abs().max() > 1e-3


@pytest.mark.parametrize("dims", [1, 3])
def test_maps_of_other_than_two_axes_are_refused_with_a_mend(dims: int) -> None:
    """timm's convolutions are of images: with one axis they would take the batch for the channels."""
    model = toys.Lambda(
        lambda m, x: x + m.b(torch.relu(m.a(x))), a=toys.conv(3, 16, d=dims), b=toys.conv(16, 3, d=dims)
    )
    with pytest.raises(
        AttentionError, match=rf"^se: timm:se works on maps of 2 spatial axes, not {dims}: use one of se, "
    ):
        inject(model, "timm:se", input_size=(3, *[8] * dims))


def test_summaries_are_timms_first_lines() -> None:
    assert resolve("timm:cbam").summary
    assert "Module" not in resolve("timm:se").summary.split()[0]


def test_maps_of_a_size_that_it_cannot_work_on_are_told_in_one_sentence() -> None:
    """Halo attention cuts maps into blocks of 8: 65 pixels leave 17 at the first site."""
    with pytest.raises(AttentionError, match=r"^layer1.0.halo: timm:halo does not run on the map 2x64x17x17 there: "):
        inject(timm.create_model("resnet18"), "timm:halo", input_size=65)
