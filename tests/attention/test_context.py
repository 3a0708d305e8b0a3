"""Attentions that gather context and give it to every position: GCNet, Gather-Excite, A2-Nets, by their equations."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_inject import AttentionError
from attn_inject.attention.registry import build

from .written import (
    TIGHT,
    apart,
    channels,
    drawn,
    maps,
    mean,
    normed,
    parameters_of,
    rows,
    scaled,
    shaken,
    sigma,
)

Shape = tuple[int, list[int]]
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def softmax(z: torch.Tensor, axis: int) -> torch.Tensor:
    e = torch.exp(z - z.amax(axis, keepdim=True))
    return e / e.sum(axis, keepdim=True)


@settings(max_examples=25, deadline=None)
@given(
    maps, channels, st.sampled_from([4, 16]), st.sampled_from(["attention", "mean"]),
    st.sampled_from(["add", "scale", "both"]),
)  # fmt: skip
def test_gc(shape: Shape, c: int, reduction: int, pool: str, fusion: str) -> None:
    gc: Any = shaken(build("gc", c, options={"reduction": reduction, "pool": pool, "fusion": fusion}))
    x = drawn(shape[0], c, shape[1])
    context = mean(x)
    if pool == "attention":
        shares = softmax(torch.einsum("ncs,c->ns", rows(x), gc.attention.weight.flatten()) + gc.attention.bias, 1)
        context = torch.einsum("ncs,ns->nc", rows(x), shares)

    def transformed(layers: Any) -> torch.Tensor:
        hidden = context @ layers.fc1.weight.T + layers.fc1.bias
        off = hidden - hidden.mean(1, keepdim=True)
        normal = off / torch.sqrt((off**2).mean(1, keepdim=True) + 1e-5) * layers.norm.weight + layers.norm.bias
        return torch.clamp(normal, min=0) @ layers.fc2.weight.T + layers.fc2.bias

    expected = x if gc.scale is None else scaled(x, sigma(transformed(gc.scale)))
    if gc.add is not None:
        expected = expected + scaled(torch.ones_like(x), transformed(gc.add))
    assert apart(gc(x), expected) <= 1e-11  # the norm of two close numbers
    width = max(c // reduction, 2)
    assert bool(gc.adjustments) == (c // reduction < 2)
    each = 2 * c * width + 3 * width + c
    assert parameters_of(gc) == each * (2 if fusion == "both" else 1) + (c + 1 if pool == "attention" else 0)


def test_gc_starts_as_released() -> None:
    x = torch.randn(2, 32, 5, 4)
    assert torch.equal(build("gc", 32)(x), x)
    assert torch.equal(build("gc", 32, options={"fusion": "scale"})(x), x / 2)


@pytest.mark.parametrize(("fusion", "attends"), [("scale", True), ("add", True), ("both", True), ("scale", False)])
def test_gc_is_timms(fusion: str, attends: bool) -> None:
    """timm's default is the scale with r = 8; its layer norm has eps 1e-6, GCNet's code torch's 1e-5."""
    layers = pytest.importorskip("timm.layers")
    theirs = layers.GlobalContext(
        64, use_attn=attends, fuse_add=fusion != "scale", fuse_scale=fusion != "add", rd_ratio=1 / 8
    )
    shaken(theirs)
    options = {"reduction": 8, "fusion": fusion, "pool": "attention" if attends else "mean"}
    ours: Any = build("gc", 64, options=options).double().eval()
    named = {"conv_attn": "attention", "mlp_scale": "scale", "mlp_add": "add"}
    state = {}
    for key, value in theirs.state_dict().items():
        head, _, rest = key.partition(".")
        state[f"{named[head]}.{rest}"] = value
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    ours.load_state_dict({key: value.reshape(shapes[key]) for key, value in state.items()}, strict=True)
    for part in (ours.scale, ours.add):
        if part is not None:
            part.norm.eps = 1e-6
    x = drawn(2, 64, [6, 5])
    assert apart(ours(x), theirs(x)) <= TIGHT


def gathered(x: torch.Tensor, extent: int) -> torch.Tensor:
    """Means over the positions of the window around every `extent`-th one, those inside the map."""
    sizes = x.shape[2:]
    out = torch.empty(*x.shape[:2], *(math.ceil(size / extent) for size in sizes), dtype=x.dtype)
    for at in product(*(range(size) for size in out.shape[2:])):
        window = tuple(
            slice(max(extent * i - extent + 1, 0), min(extent * i + extent, size))
            for i, size in zip(at, sizes, strict=True)
        )
        out[(..., *at)] = x[(slice(None), slice(None), *window)].flatten(2).mean(2)
    return out


def enlarged(y: torch.Tensor, sizes: torch.Size) -> torch.Tensor:
    """The nearest neighbour of every position."""
    for axis, size in enumerate(sizes, 2):
        y = y.index_select(axis, torch.tensor([i * y.shape[axis] // size for i in range(size)]))
    return y


@settings(max_examples=20, deadline=None)
@given(maps, channels, st.sampled_from([0, 2, 4, 8]))
def test_ge_without_parameters(shape: Shape, c: int, extent: int) -> None:
    ge = build("ge", c, ndim=len(shape[1]), options={"extent": extent}).double()
    x = drawn(shape[0], c, shape[1])
    if extent == 0:
        assert apart(ge(x), scaled(x, sigma(mean(x)))) <= TIGHT
    else:
        assert apart(ge(x), x * sigma(enlarged(gathered(x, extent), x.shape[2:]))) <= TIGHT
    assert parameters_of(ge) == 0


@settings(max_examples=20, deadline=None)
@given(maps, channels, st.sampled_from([0, 2, 4, 8]), st.booleans(), st.sampled_from(["code", "text"]), st.booleans())
def test_ge_with_parameters(shape: Shape, c: int, extent: int, plus: bool, form: str, training: bool) -> None:
    ndim = len(shape[1])
    options = {"extent": extent, "variant": "theta-plus" if plus else "theta", "form": form, "size": shape[1]}
    ge: Any = shaken(build("ge", c, ndim=ndim, options=options)).train(training)
    x = drawn(shape[0], c, shape[1])
    conv = CONVOLUTIONS[ndim]

    def norm(layer: Any, y: torch.Tensor) -> torch.Tensor:
        return normed(layer, y, batch=training and y.numel() > c)

    y = x
    if extent == 0:
        y = norm(ge.norm, conv(y, ge.conv.weight, groups=c))
        count = math.prod(shape[1]) * c + 2 * c
    else:
        steps = int(math.log2(extent))
        for step in range(steps):
            y = norm(ge.gather[3 * step + 1], conv(y, ge.gather[3 * step].weight, stride=2, padding=1, groups=c))
            y = torch.clamp(y, min=0) if step < steps - 1 else y
        count = steps * (3**ndim + 2) * c
    if plus:
        y = torch.clamp(y, min=0) if form == "code" else y
        w1, w2 = (layer.weight.flatten(1) for layer in (ge.fc.fc1, ge.fc.fc2))
        hidden = torch.clamp(torch.einsum("hc,ncs->nhs", w1, rows(y)) + ge.fc.fc1.bias[:, None], min=0)
        y = (torch.einsum("ch,nhs->ncs", w2, hidden) + ge.fc.fc2.bias[:, None]).reshape(y.shape)
        width = max(c // 16, 1)
        count += 2 * c * width + width + c
    assert apart(ge(x), x * sigma(enlarged(y, x.shape[2:]))) <= (1e-9 if training else TIGHT)
    assert parameters_of(ge) == count


def test_ge_is_timms_where_timm_makes_it() -> None:
    """timm 1.0 makes the parameter-free forms only; its others end in a TypeError of its own constructor."""
    layers = pytest.importorskip("timm.layers")
    x = drawn(2, 8, [9, 7])
    for extent in (0, 2, 4):
        theirs = layers.GatherExcite(8, extent=extent, use_mlp=False)
        assert apart(build("ge", 8, options={"extent": extent})(x), theirs(x)) <= TIGHT


def test_ge_says_what_it_needs() -> None:
    with pytest.raises(AttentionError, match="give the size of the maps, or extent 2, 4 or 8"):
        build("ge", 8, options={"variant": "theta"})
    with pytest.raises(AttentionError, match="extent must be 0 .global. or a power of two"):
        build("ge", 8, options={"extent": 3})
    with pytest.raises(AttentionError, match="extent must be 0 .global. or a power of two"):
        build("ge", 8, options={"extent": 1})
    with pytest.raises(AttentionError, match="variant must be one of theta-minus, theta, theta-plus"):
        build("ge", 8, options={"variant": "plus"})
    with pytest.raises(AttentionError, match="size must be one number, or one for each of 2 axes"):
        build("ge", 8, options={"variant": "theta", "size": [7]})
    sized = build("ge", 8, options={"variant": "theta", "size": 7})
    with pytest.raises(AttentionError, match=r"a map of \[7, 7\], and got one of \[8, 7\]"):
        sized(torch.randn(2, 8, 8, 7))
    narrow: Any = build("ge", 8, options={"variant": "theta-plus", "extent": 2})
    assert narrow.adjustments == ("narrower than the reduction 16: hidden width 1",)


@settings(max_examples=25, deadline=None)
@given(maps, channels, st.sampled_from([2, 4, 8]), st.sampled_from([{}, {"gathered": 3}, {"distributed": 5}]))
def test_double(shape: Shape, c: int, reduction: int, widths: dict[str, int]) -> None:
    double: Any = shaken(build("double", c, options={"reduction": reduction, **widths}))
    x = drawn(shape[0], c, shape[1])

    def layer(conv: Any, y: torch.Tensor) -> torch.Tensor:
        return torch.einsum("oc,ncs->nos", conv.weight.squeeze(2), y) + conv.bias[:, None]

    a = layer(double.features, rows(x))
    b, v = softmax(layer(double.gather, rows(x)), 2), softmax(layer(double.distribute, rows(x)), 1)
    z = torch.einsum("nms,nks,nkt->nmt", a, b, v)
    assert apart(double(x), x + layer(double.out, z).reshape(x.shape)) <= TIGHT
    m, n = widths.get("gathered", max(c // reduction, 1)), widths.get("distributed", max(c // reduction, 2))
    assert parameters_of(double) == (m + 2 * n) * (c + 1) + c * (m + 1)
    assert bool(double.adjustments) == (c // reduction < 2)
