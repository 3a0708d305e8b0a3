"""CBAM, BAM and scSE against their papers' equations, written out in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_inject import AttentionError
from attn_inject.attention.registry import build

from .plain import CONVOLUTIONS, TIGHT, count, map_of, normalized, shaken, sigma, spread

channels = st.one_of(st.integers(1, 2048), st.sampled_from([1, 2, 3, 16, 24, 2048]))
sizes = st.lists(st.integers(1, 5), min_size=1, max_size=3)
reductions = st.sampled_from([1, 2, 4, 16, 2.5])


def _mean(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).sum(2) / x[0, 0].numel()


def _linear(x: torch.Tensor, layer: Any) -> torch.Tensor:
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


@settings(max_examples=10, deadline=None)
@given(channels, sizes, reductions, st.sampled_from([1, 3, 7]), st.booleans(), st.booleans(), st.booleans())
def test_cbam(c: int, size: list[int], reduction: float, kernel: int, bias: bool, norm: bool, train: bool) -> None:
    """The equations; the batch norm and the biases are the authors' code's."""
    n = len(size)
    options = {"reduction": reduction, "kernel": kernel, "bias": bias, "norm": norm}
    cbam: Any = shaken(build("cbam", c, ndim=n, options=options).double()).eval()
    x = map_of(2, c, size)
    w0, w1 = cbam.channel.fc1, cbam.channel.fc2

    def mlp(pooled: torch.Tensor) -> torch.Tensor:
        return _linear(torch.clamp(_linear(pooled, w0), min=0), w1)

    once = x * spread(sigma(mlp(_mean(x)) + mlp(x.flatten(2).max(2).values)), x)
    both = torch.stack([once.max(1).values, once.sum(1) / c], 1)
    logits = CONVOLUTIONS[n](both, cbam.conv.weight, padding=kernel // 2)
    twice = once * sigma(normalized(logits, cbam.norm) if norm else logits)
    assert (cbam(x) - twice).abs().max() <= TIGHT
    hidden = max(int(c // reduction), 1)
    assert count(cbam) == 2 * c * hidden + (c + hidden) * bias + 2 * kernel**n + 2 * norm
    assert bool(cbam.adjustments) == bool(cbam.unmet) == (c < reduction)


def test_cbam_is_timms_with_its_weights() -> None:
    """timm's "CBAM (sort-of)" has no biases, and concatenates [avg; max] as the paper's text does."""
    timm_cbam = pytest.importorskip("timm.layers.cbam")
    theirs = shaken(timm_cbam.CbamModule(64)).eval()
    ours = build("cbam", 64, options={"bias": False}).eval()
    given = theirs.state_dict()
    ours.load_state_dict(
        {
            "channel.fc1.weight": given["channel.fc1.weight"].flatten(1),
            "channel.fc2.weight": given["channel.fc2.weight"].flatten(1),
            "conv.weight": given["spatial.conv.conv.weight"].flip(1),
            **{key.replace("spatial.conv.bn", "norm"): value for key, value in given.items() if ".bn." in key},
        },
        strict=True,
    )
    x = torch.randn(2, 64, 9, 6)
    assert (ours(x) - theirs(x)).abs().max() <= 1e-6


@settings(max_examples=10, deadline=None)
@given(channels, sizes, reductions, st.integers(1, 4), st.sampled_from(["code", "text"]))
def test_bam(c: int, size: list[int], reduction: float, dilation: int, form: str) -> None:
    """The equations as they stand, and as the authors' code has them."""
    n = len(size)
    if n == 3:
        c = min(c, 200)
    bam: Any = shaken(
        build("bam", c, ndim=n, options={"reduction": reduction, "dilation": dilation, "form": form}).double()
    ).eval()
    x = map_of(2, c, size)
    conv = CONVOLUTIONS[n]

    def plain(z: torch.Tensor, layer: Any) -> torch.Tensor:
        padding = dilation * (layer.kernel_size[0] // 2)
        return conv(z, layer.weight, layer.bias, padding=padding, dilation=dilation)

    if form == "text":
        fc0, fc1, norm_c = bam.channel
        f0, f1, f2, f3, norm_s = bam.spatial
        channel = normalized(_linear(_linear(_mean(x), fc0), fc1), norm_c)
        spatial = normalized(plain(plain(plain(plain(x, f0), f1), f2), f3), norm_s)
        weights = sigma(spread(channel, x) + spatial)
    else:
        fc0, norm, _, fc1 = bam.channel
        channel = _linear(torch.clamp(normalized(_linear(_mean(x), fc0), norm), min=0), fc1)
        f0, norm0, _, f1, norm1, _, f2, norm2, _, f3 = bam.spatial
        z = x
        for f, norm in ((f0, norm0), (f1, norm1), (f2, norm2)):
            z = torch.clamp(normalized(plain(z, f), norm), min=0)
        weights = sigma(spread(channel, x) * plain(z, f3))
    assert (bam(x) - (x + x * weights)).abs().max() <= TIGHT * max(1, x.abs().max().item())
    hidden = max(int(c // reduction), 1)
    m_c = 2 * c * hidden + hidden + c
    m_s = c * hidden + hidden + 2 * (3**n * hidden**2 + hidden) + hidden + 1
    assert count(bam) == m_c + m_s + (8 * hidden if form == "code" else 2 * c + 2)
    assert bool(bam.adjustments) == bool(bam.unmet) == (c < reduction)


@settings(max_examples=10, deadline=None)
@given(channels, sizes, reductions, st.sampled_from(["add", "max"]), st.booleans())
def test_scse(c: int, size: list[int], reduction: float, combine: str, bias: bool) -> None:
    """The sum of both, and the journal version's maximum."""
    n = len(size)
    options = {"reduction": reduction, "combine": combine, "bias": bias}
    scse: Any = shaken(build("scse", c, ndim=n, options=options).double())
    x = map_of(2, c, size)
    hidden = torch.clamp(_linear(_mean(x), scse.channel.fc1), min=0)
    c_se = x * spread(sigma(_linear(hidden, scse.channel.fc2)), x)
    s_se = x * sigma(CONVOLUTIONS[n](x, scse.spatial.weight, scse.spatial.bias))
    expected = c_se + s_se if combine == "add" else torch.where(c_se > s_se, c_se, s_se)
    assert (scse(x) - expected).abs().max() <= TIGHT
    width = max(int(c // reduction), 1)
    assert count(scse) == 2 * c * width + c + (width + c + 1) * bias


@pytest.mark.wild
def test_scse_is_segmentation_models_with_its_weights() -> None:
    modules = pytest.importorskip("segmentation_models_pytorch.base.modules")
    theirs = modules.SCSEModule(64)
    ours = build("scse", 64, options={"reduction": 16})
    given = theirs.state_dict()
    names = {
        "cSE.1": "channel.fc1",
        "cSE.3": "channel.fc2",
        "sSE.0": "spatial",
    }
    moved = {
        f"{new}.{kind}": given[f"{old}.{kind}"].flatten(1)
        if new != "spatial" and kind == "weight"
        else given[f"{old}.{kind}"]
        for old, new in names.items()
        for kind in ("weight", "bias")
    }
    ours.load_state_dict(moved, strict=True)
    x = torch.randn(2, 64, 9, 6)
    assert (ours(x) - theirs(x)).abs().max() <= 1e-6


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cbam", {"kernel": 4}, "kernel must be odd, got 4: 3 or 5"),
        ("cbam", {"reduction": 0}, "reduction must be a number from 1"),
        ("bam", {"dilation": 0}, "dilation must be a whole number from 1"),
        ("bam", {"form": "mine"}, "form must be one of code, text"),
        ("scse", {"combine": "mul"}, "combine must be one of add, max"),
    ],
)
def test_impossible_settings(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(AttentionError, match=words):
        build(name, 32, options=options)
