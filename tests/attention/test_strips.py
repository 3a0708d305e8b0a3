"""Coordinate attention, ELA and EMA, which see a map as strips, against their papers' equations, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attn_inject import AttentionError
from attn_inject.attention.registry import build

from .plain import CONVOLUTIONS, TIGHT, count, map_of, normalized, shaken, sigma

channels = st.one_of(st.integers(1, 2048), st.sampled_from([1, 2, 3, 16, 24, 2048]))
sizes = st.lists(st.integers(1, 5), min_size=1, max_size=3)


def _strips(x: torch.Tensor) -> list[torch.Tensor]:
    """(N, C, S) for each spatial axis: the mean over the others."""
    flat = [x.movedim(axis, 2).flatten(3) if x.dim() > 3 else x.unsqueeze(3) for axis in range(2, x.dim())]
    return [each.sum(3) / each.size(3) for each in flat]


def _on(weights: torch.Tensor, x: torch.Tensor, axis: int) -> torch.Tensor:
    """(N, C, S) with S on `axis` of `x`."""
    return weights.reshape(*weights.shape[:2], *(-1 if a == axis else 1 for a in range(2, x.dim())))


@settings(max_examples=10, deadline=None)
@given(channels, sizes, st.sampled_from([1, 4, 16, 32]), st.sampled_from([1, 8]), st.booleans())
def test_coord(c: int, size: list[int], reduction: int, least: int, bias: bool) -> None:
    """The equations axis by axis: a 1x1 convolution and a norm in eval mode do not mix positions."""
    n = len(size)
    options = {"reduction": reduction, "min_width": least, "bias": bias}
    coord: Any = shaken(build("coord", c, ndim=n, options=options).double()).eval()
    x = map_of(2, c, size)
    out = x
    for axis, (strip, gate) in enumerate(zip(_strips(x), coord.gates, strict=True), 2):
        z = F.conv1d(strip, coord.conv.weight, coord.conv.bias)
        z = normalized(z, coord.norm)
        z = z * torch.clamp(z + 3, 0, 6) / 6
        out = out * _on(sigma(F.conv1d(z, gate.weight, gate.bias)), x, axis)
    assert (coord(x) - out).abs().max() <= TIGHT
    hidden = max(c // reduction, least)
    assert count(coord) == c * hidden + 2 * hidden + n * hidden * c + (hidden + n * c) * bias


def test_coord_trains_with_one_norm_over_all_strips() -> None:
    """The strips are concatenated before the norm, whose statistics are of both."""
    coord: Any = shaken(build("coord", 16).double()).train()
    x = map_of(3, 16, [4, 6])
    joined = F.conv1d(torch.cat(_strips(x), 2), coord.conv.weight, coord.conv.bias)
    mean, var = joined.mean((0, 2), keepdim=True), joined.var((0, 2), keepdim=True, correction=0)
    z = (joined - mean) / torch.sqrt(var + 1e-5) * coord.norm.weight[:, None] + coord.norm.bias[:, None]
    z = z * torch.clamp(z + 3, 0, 6) / 6
    g_h, g_w = (
        sigma(F.conv1d(part, g.weight, g.bias)) for part, g in zip(z.split([4, 6], 2), coord.gates, strict=True)
    )
    assert (coord(x) - x * g_h[..., None] * g_w[:, :, None]).abs().max() <= TIGHT


def test_coord_is_timms_with_its_weights() -> None:
    coord_attn = pytest.importorskip("timm.layers.coord_attn")
    theirs = shaken(coord_attn.CoordAttn(64, rd_channels=8)).eval()
    ours = build("coord", 64, options={"bias": False}).eval()
    names = {"conv1": "conv", "bn1": "norm", "conv_h": "gates.0", "conv_w": "gates.1"}
    moved = {
        ".".join([names[key.partition(".")[0]], key.partition(".")[2]]): value.squeeze(3) if value.dim() == 4 else value
        for key, value in theirs.state_dict().items()
    }
    ours.load_state_dict(moved, strict=True)
    x = torch.randn(2, 64, 9, 6)
    assert (ours(x) - theirs(x)).abs().max() <= 1e-6


@settings(max_examples=10, deadline=None)
@given(
    st.one_of(st.integers(1, 500), st.sampled_from([2048])), sizes, st.sampled_from([1, 5, 7]),
    st.sampled_from([1, 8]), st.sampled_from([1, 16, 32]), st.booleans(),
)  # fmt: skip
def test_ela(c: int, size: list[int], kernel: int, width: int, norm_groups: int, shared: bool) -> None:
    n = len(size)
    options = {"kernel": kernel, "group_width": width, "norm_groups": norm_groups, "shared": shared}
    ela: Any = shaken(build("ela", c, ndim=n, options=options).double())
    x = map_of(2, c, size)
    groups = max(g for g in range(1, max(c // width, 1) + 1) if c % g == 0)
    parts = max(g for g in range(1, norm_groups + 1) if c % g == 0)
    assert bool(ela.adjustments) == (groups * width != c or parts != norm_groups)
    out = x
    for axis, strip in enumerate(_strips(x), 2):
        conv, norm = (each[0 if shared else axis - 2] for each in (ela.convs, ela.norms))
        z = F.conv1d(strip, conv.weight, padding=kernel // 2, groups=groups).reshape(2, parts, -1)
        mean = z.mean(2, keepdim=True)
        z = (z - mean) / torch.sqrt(((z - mean) ** 2).mean(2, keepdim=True) + 1e-5)
        z = z.reshape(strip.shape) * norm.weight[:, None] + norm.bias[:, None]
        out = out * _on(sigma(z), x, axis)
    assert (ela(x) - out).abs().max() <= TIGHT
    assert count(ela) == (1 if shared else n) * (c * kernel * c // groups + 2 * c)


def test_ela_is_timms_without_its_silu() -> None:
    """timm puts a SiLU before the sigmoid, which neither text nor code has, norms in one group and shares nothing."""
    coord_attn = pytest.importorskip("timm.layers.coord_attn")
    theirs = shaken(coord_attn.EfficientLocalAttn(64, act_layer=torch.nn.Identity)).eval()
    ours = build("ela", 64, options={"norm_groups": 1, "shared": False})
    places = {"conv_h": "convs.0", "conv_w": "convs.1", "norm_h": "norms.0", "norm_w": "norms.1"}
    moved = {
        ".".join([places[key.partition(".")[0]], key.partition(".")[2]]): value.flatten(2)
        if value.dim() == 4
        else value
        for key, value in theirs.state_dict().items()
    }
    ours.load_state_dict(moved, strict=True)
    x = torch.randn(2, 64, 9, 6)
    assert (ours(x) - theirs(x)).abs().max() <= 1e-6


@settings(max_examples=10, deadline=None)
@given(st.one_of(st.integers(1, 200), st.sampled_from([512])), sizes, st.sampled_from([1, 8, 32]))
@example(2048, [3, 2], 32)
def test_ema(c: int, size: list[int], groups: int) -> None:
    """The equations, group by group."""
    n = len(size)
    ema: Any = shaken(build("ema", c, ndim=n, options={"groups": groups}).double())
    fitted = max(g for g in range(1, groups + 1) if c % g == 0)
    assert bool(ema.adjustments) == (fitted != groups)
    x = map_of(2, c, size)
    out = []
    for part in x.chunk(fitted, 1):
        gated = part
        for axis, strip in enumerate(_strips(part), 2):
            gated = gated * _on(sigma(F.conv1d(strip, ema.strip.weight, ema.strip.bias)), part, axis)
        flat = gated.flatten(2)
        mean = flat.mean(2, keepdim=True)
        flat = (flat - mean) / torch.sqrt(((flat - mean) ** 2).mean(2, keepdim=True) + 1e-5)
        first = flat * ema.norm.weight[:, None] + ema.norm.bias[:, None]
        second = CONVOLUTIONS[n](part, ema.local.weight, ema.local.bias, padding=1).flatten(2)
        a, b = (torch.exp(m) / torch.exp(m).sum(1, keepdim=True) for m in (first.mean(2), second.mean(2)))
        logits = (a[..., None] * second).sum(1) + (b[..., None] * first).sum(1)
        out.append(part * sigma(logits).reshape(2, 1, *size))
    assert (ema(x) - torch.cat(out, 1)).abs().max() <= TIGHT * math.sqrt(c)
    width = c // fitted
    assert count(ema) == width**2 + width + 3**n * width**2 + width + 2 * width


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("coord", {"act": "sine"}, "act must be one of"),
        ("coord", {"min_width": 0}, "min_width must be a whole number from 1"),
        ("ela", {"kernel": 6}, "kernel must be odd, got 6: 5 or 7"),
        ("ela", {"norm_groups": 0}, "norm_groups must be a whole number from 1"),
        ("ema", {"groups": 0}, "groups must be a whole number from 1"),
    ],
)
def test_impossible_settings(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(AttentionError, match=words):
        build(name, 32, options=options)


def test_what_is_fitted_is_said() -> None:
    assert build("ela", 32).adjustments == ()
    assert build("ela", 40, options={"group_width": 16}).adjustments == (
        "with groups of 16 channels fitted to 20",
        "with norm_groups 16 fitted to 10",
    )
    assert build("ema", 40).adjustments == ("with groups 32 fitted to 20",)
    assert build("ema", 64).adjustments == ()
