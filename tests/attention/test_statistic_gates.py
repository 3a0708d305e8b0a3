"""Channel gates without a layer over all channels: GCT, SRM, LCT, Gaussian GCT, by their papers' equations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_inject import AttentionError
from attn_inject.attention.registry import build

from .written import TIGHT, apart, channels, drawn, maps, mean, normed, parameters_of, rows, scaled, shaken, sigma

Shape = tuple[int, list[int]]
forms = st.sampled_from(["code", "text"])
gates = st.sampled_from(["sigmoid", "hardsigmoid"])


def opened(logits: torch.Tensor, gate: str) -> torch.Tensor:
    return sigma(logits) if gate == "sigmoid" else torch.clamp(logits / 6 + 0.5, 0, 1)


@settings(max_examples=25, deadline=None)
@given(maps, channels, forms, st.sampled_from(["l2", "l1"]))
def test_gct(shape: Shape, c: int, form: str, norm: str) -> None:
    gct: Any = shaken(build("gct", c, options={"form": form, "norm": norm}))
    x = drawn(shape[0], c, shape[1])
    eps = 1e-5
    if norm == "l2":
        s = gct.alpha * torch.sqrt((rows(x) ** 2).sum(2) + eps)
        # The text's normalization, and the code's: eps beside the sum over channels, or beside their mean.
        text = math.sqrt(c) * s / torch.sqrt((s**2).sum(1, keepdim=True) + eps)
        code = s / torch.sqrt((s**2).sum(1, keepdim=True) / c + eps)
    else:
        s = gct.alpha * rows(x).abs().sum(2)
        text = c * s / (s.abs().sum(1, keepdim=True) + eps)
        code = s / (s.abs().sum(1, keepdim=True) / c + eps)
    normal = text if form == "text" else code
    assert apart(gct(x), scaled(x, 1 + torch.tanh(gct.gamma * normal + gct.beta))) <= TIGHT
    assert parameters_of(gct) == 3 * c


@settings(max_examples=25, deadline=None)
@given(maps, channels, forms, gates, st.booleans())
def test_srm(shape: Shape, c: int, form: str, gate: str, training: bool) -> None:
    srm: Any = shaken(build("srm", c, options={"form": form, "gate": gate})).train(training)
    x = drawn(shape[0], c, shape[1])
    count = math.prod(shape[1])
    mu = mean(x)
    squares = ((rows(x) - mu[:, :, None]) ** 2).sum(2)
    deviation = torch.sqrt(squares / (count if form == "text" else max(count - 1, 1)) + 1e-5)
    z = mu * srm.weight[:, 0] + deviation * srm.weight[:, 1]
    # One image behind a pool has no variance: the running statistics stand in, and stay.
    alone = shape[0] == 1
    expected = scaled(x, opened(normed(srm.norm, z, batch=training and not alone), gate))
    kept = srm.norm.running_mean.clone()
    # The norm divides what may be a small deviation of two images by itself.
    assert apart(srm(x), expected) <= (1e-9 if training else TIGHT)
    assert torch.equal(srm.norm.running_mean, kept) == (alone or not training)
    assert parameters_of(srm) == 4 * c


@settings(max_examples=25, deadline=None)
@given(maps, channels, gates, st.sampled_from([1, 4, 16, 64]))
def test_lct(shape: Shape, c: int, gate: str, groups: int) -> None:
    lct: Any = shaken(build("lct", c, options={"groups": groups, "gate": gate}))
    fitted = max(g for g in range(1, max(min(groups, c // 2), 1) + 1) if c % g == 0)
    assert bool(lct.adjustments) == (fitted != groups)
    x = drawn(shape[0], c, shape[1])
    parts = mean(x).chunk(fitted, 1)
    normal = torch.cat(
        [
            (part - part.mean(1, keepdim=True)) / torch.sqrt(part.var(1, correction=0, keepdim=True) + 1e-5)
            for part in parts
        ],
        1,
    )
    assert apart(lct(x), scaled(x, opened(lct.weight * normal + lct.bias, gate))) <= TIGHT
    assert parameters_of(lct) == 2 * c


@settings(max_examples=25, deadline=None)
@given(maps, channels, st.sampled_from([0.5, 1, 2.0, 3.7]), st.booleans())
def test_gaussian_gct(shape: Shape, c: int, width: float, learn: bool) -> None:
    options = {"learn": True, "alpha": width, "beta": 0.25} if learn else {"c": width}
    gct: Any = shaken(build("gaussian-gct", c, options=options))
    x = drawn(shape[0], c, shape[1])
    off = mean(x) - mean(x).mean(1, keepdim=True)
    normal = off / (torch.sqrt((off**2).mean(1, keepdim=True)) + 1e-5)
    deviation = width * sigma(gct.theta) + 0.25 if learn else width
    assert apart(gct(x), scaled(x, torch.exp(-(normal**2) / (2 * deviation**2)))) <= TIGHT
    assert parameters_of(gct) == int(learn)


def test_gaussian_gct_learns_a_deviation_from_1_to_4() -> None:
    learned: Any = build("gaussian-gct", 8, options={"learn": True})
    for theta, expected in ((-1e3, 1.0), (0.0, 2.5), (1e3, 4.0)):
        assert learned.theta == 0
        with torch.no_grad():
            learned.theta.fill_(theta)
        fixed = build("gaussian-gct", 8, options={"c": expected})
        x = torch.randn(2, 8, 3, 3)
        assert torch.equal(learned(x), fixed(x))
        with torch.no_grad():
            learned.theta.zero_()


def test_how_they_start() -> None:
    x = torch.randn(4, 64, 5, 5)
    assert torch.equal(build("gct", 64)(x), x)
    assert torch.equal(build("srm", 64)(x), x / 2)
    assert torch.allclose(build("lct", 64)(x), x * torch.sigmoid(torch.ones(())))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gct", {"norm": "l3"}, "norm must be one of l2, l1"),
        ("gct", {"form": "mine"}, "form must be one of code, text"),
        ("srm", {"form": "mine"}, "form must be one of code, text"),
        ("lct", {"groups": 0}, "groups must be a whole number from 1"),
        ("gaussian-gct", {"c": 0}, "c must be a number above 0"),
        ("gaussian-gct", {"c": True}, "c must be a number above 0"),
        ("gaussian-gct", {"learn": True, "alpha": -1}, "alpha must be a number above 0"),
        ("srm", {"gate": "tanh"}, "gate must be one of"),
    ],
)
def test_impossible_settings(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(AttentionError, match="^[^\n]+$") as caught:
        build(name, 32, options=options)
    assert words in str(caught.value)
