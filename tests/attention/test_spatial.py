"""SimAM, shuffle attention, LSKA and polarized self-attention against their papers' equations, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attn_inject import AttentionError
from attn_inject.attention.registry import build

from .plain import CONVOLUTIONS, TIGHT, count, map_of, shaken, sigma

channels = st.one_of(st.integers(1, 2048), st.sampled_from([1, 2, 3, 16, 24, 2048]))
sizes = st.lists(st.integers(1, 5), min_size=1, max_size=3)


def _normed(x: torch.Tensor, axis: int) -> torch.Tensor:
    """(x - mean) / sqrt(variance + 1e-5) over one axis."""
    moved = x - x.mean(axis, keepdim=True)
    return moved / torch.sqrt((moved**2).mean(axis, keepdim=True) + 1e-5)


@settings(max_examples=10, deadline=None)
@given(
    channels, st.lists(st.integers(1, 5), min_size=0, max_size=4), st.sampled_from([1e-4, 0.1]),
    st.sampled_from(["sample", "population"]),
)  # fmt: skip
@example(4, [1], 1e-4, "sample")
@example(4, [1, 2], 1e-4, "sample")
def test_simam(c: int, size: list[int], e_lambda: float, variance: str) -> None:
    """The energy itself, as it is defined."""
    simam = build("simam", c, ndim=len(size), options={"e_lambda": e_lambda, "variance": variance})
    x = map_of(2, c, size)
    t = x.flatten(2) if size else x.unsqueeze(2)
    m = t.size(2)
    mu = t.sum(2, keepdim=True) / m
    v = ((t - mu) ** 2).sum(2, keepdim=True) / max(m - (variance == "sample"), 1)
    e = 4 * (v + e_lambda) / ((t - mu) ** 2 + 2 * v + 2 * e_lambda)
    assert (simam(x) - (t * sigma(1 / e)).reshape(x.shape)).abs().max() <= TIGHT
    assert count(simam) == 0


def test_simam_keeps_what_half_precision_cannot_square() -> None:
    x = torch.randn(2, 8, 6, 5) * 3000
    simam = build("simam", 8)
    assert (x.half().double() ** 2).max() > torch.finfo(torch.float16).max
    assert (simam(x.half()).float() - simam(x)).abs().max() <= 0.005 * x.abs().max()


@settings(max_examples=10, deadline=None)
@given(channels, sizes, st.sampled_from([1, 4, 64]))
def test_shuffle(c: int, size: list[int], groups: int) -> None:
    """The equations, group by group, and ShuffleNet's shuffle as a permutation."""
    sa: Any = shaken(build("sa", c, ndim=len(size), options={"groups": groups}).double())
    x = map_of(2, c, size)
    even = c + c % 2
    padded = torch.cat([x, torch.zeros(2, even - c, *size).double()], 1)
    fitted = max(g for g in range(1, groups + 1) if even // 2 % g == 0)
    assert bool(sa.adjustments) == (fitted != groups or c % 2 == 1)
    width = even // 2 // fitted
    shape = (width, *(1,) * len(size))
    joined = []
    for part in padded.chunk(fitted, 1):
        first, second = part[:, :width], part[:, width:]
        mean = first.flatten(2).mean(2)
        joined.append(first * sigma(sa.channel_weight * mean + sa.channel_bias).reshape(2, *shape))
        norm = _normed(second.flatten(2), 2).reshape(second.shape)
        norm = norm * sa.norm.weight.reshape(shape) + sa.norm.bias.reshape(shape)
        joined.append(second * sigma(sa.spatial_weight.reshape(shape) * norm + sa.spatial_bias.reshape(shape)))
    out = torch.cat(joined, 1)
    order = [i // 2 + (even // 2) * (i % 2) for i in range(c)]
    assert (sa(x) - out[:, order]).abs().max() <= TIGHT
    assert count(sa) == 6 * width


def test_shuffle_starts_as_published() -> None:
    """3 C/G parameters in all, all gates at sigma(1)."""
    sa = build("sa", 512)
    assert count(sa) == 3 * 512 // 64
    x = torch.randn(1, 512, 2, 2)
    assert torch.allclose(sa(x).sum(1), torch.sigmoid(torch.ones(())) * x.sum(1), atol=1e-5)
    assert build("sa", 33).adjustments == (
        "with groups 64 fitted to 17",
        "with an odd number of channels: one of zeros added, and cut",
    )


# The authors' kernels: (depthwise, dilated) extents and dilation.
KERNELS = {7: (3, 3, 2), 11: (3, 5, 2), 23: (5, 7, 3), 35: (5, 11, 3), 41: (5, 13, 3), 53: (5, 17, 3)}


@settings(max_examples=10, deadline=None)
@given(
    st.one_of(st.integers(1, 200), st.sampled_from([2048])), sizes, st.sampled_from(sorted(KERNELS)),
    st.sampled_from(["code", "text"]),
)  # fmt: skip
def test_lska(c: int, size: list[int], kernel: int, form: str) -> None:
    """The equations, by full kernels that are outer products of the strips'."""
    n = len(size)
    if n == 3:
        c = min(c, 20)
    lska: Any = shaken(build("lska", c, ndim=n, options={"kernel": kernel, "form": form}).double())
    biases = form == "code"
    x = map_of(2, c, size)
    near, far, step = KERNELS[kernel]
    z = x
    for number, conv in enumerate(lska.convs):
        axis, dilation = n - 1 - number % n, step if number >= n else 1
        extent = far if number >= n else near
        assert conv.weight.numel() == c * extent
        moved = F.pad(z.movedim(axis + 2, -1), [extent // 2 * dilation] * 2)
        taps = conv.weight.reshape(c, extent)
        length = size[axis]
        spread = (1, c, *(1,) * n)
        z = sum(moved[..., i * dilation : i * dilation + length] * taps[:, i].reshape(spread) for i in range(extent))
        z = (z + conv.bias.reshape(spread) if biases else z).movedim(-1, axis + 2)
    expected = x * CONVOLUTIONS[n](z, lska.mix.weight, lska.mix.bias)
    assert (lska(x) - expected).abs().max() <= TIGHT * max(1.0, expected.abs().max().item())
    assert count(lska) == n * c * (near + far + 2 * biases) + c * c + c * biases
    if not biases:
        with pytest.raises(AttentionError, match="starts from the biases, which form='text' does not have"):
            build("lska", c, ndim=n, init="identity", options={"form": form})


@settings(max_examples=10, deadline=None)
@given(
    st.one_of(st.integers(1, 300), st.sampled_from([1, 2, 2048])), sizes, st.sampled_from(["parallel", "sequential"]),
    st.sampled_from(["code", "text"]),
)  # fmt: skip
def test_polarized(c: int, size: list[int], layout: str, form: str) -> None:
    polarized: Any = shaken(build("polarized", c, ndim=len(size), options={"layout": layout, "form": form}).double())
    with torch.no_grad():
        # The softmax of a sum over a thousand large products would make much of the rounding of each.
        for layer in (polarized.spatial_query, polarized.spatial_value, polarized.channel_query):
            layer.weight.div_(max(c**0.5 / 4, 1.0))
    x = map_of(2, c, size)
    half = max(c // 2, 1)

    def soft(z: torch.Tensor, axis: int) -> torch.Tensor:
        powers = torch.exp(z - z.amax(axis, keepdim=True))
        return powers / powers.sum(axis, keepdim=True)

    def by(layer: Any, flat: torch.Tensor) -> torch.Tensor:
        return layer.weight.squeeze(2) @ flat

    def channel(flat: torch.Tensor) -> torch.Tensor:
        z = (by(polarized.channel_value, flat) * soft(by(polarized.channel_query, flat), 2)).sum(2)
        up = polarized.up
        z = z @ up[0].weight.T + (0 if up[0].bias is None else up[0].bias)
        if len(up) > 1:
            z = _normed(z, 1) * up[1].weight + up[1].bias
        if len(up) > 2:
            z = torch.clamp(z, min=0) @ up[3].weight.T + up[3].bias
        return sigma(z)[..., None]

    def position(flat: torch.Tensor) -> torch.Tensor:
        q, v = by(polarized.spatial_query, flat).mean(2, keepdim=True), by(polarized.spatial_value, flat)
        if form == "text":
            z = (soft(q, 1) * v).sum(1, keepdim=True)
        elif layout == "parallel":
            z = soft((q * v).sum(1, keepdim=True), 2)
        else:
            z = (q * soft(v, 2)).sum(1, keepdim=True)
        return sigma(z)

    flat = x.flatten(2)
    if layout == "parallel":
        expected = flat * channel(flat) + flat * position(flat)
    else:
        expected = flat * channel(flat)
        expected = expected * position(expected)
    assert (polarized(x) - expected.reshape(x.shape)).abs().max() <= TIGHT
    narrow = max(c // 8, 1)
    up = (
        half * c + 2 * c if form == "text"
        else half * c if layout == "parallel"
        else half * narrow + 3 * narrow + narrow * c + c
    )  # fmt: skip
    assert count(polarized) == c + 3 * c * half + up


def test_polarized_fits_few_channels_and_says_so() -> None:
    assert build("polarized", 1).adjustments == ("with one channel: half of it is one",)
    assert build("polarized", 4, options={"layout": "sequential"}).adjustments == ("narrower than 8: hidden width 1",)
    assert build("polarized", 4).adjustments == ()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("simam", {"e_lambda": 0}, "e_lambda must be a number above 0"),
        ("simam", {"variance": "n"}, "variance must be one of sample, population"),
        ("sa", {"groups": 0}, "groups must be a whole number from 1"),
        ("lska", {"kernel": 8}, "kernel 8 over dilation 2 must be odd when rounded down, and is 4"),
        ("lska", {"dilation": 0}, "dilation must be a whole number from 1"),
        ("polarized", {"layout": "both"}, "layout must be one of parallel, sequential"),
        ("polarized", {"form": "mine"}, "form must be one of code, text"),
    ],
)
def test_impossible_settings(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(AttentionError, match=words):
        build(name, 32, options=options)
