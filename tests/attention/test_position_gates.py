"""Attentions with a weight for each position: NAM, SGE, GAM, MLCA, by their papers' equations."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attn_inject import AttentionError
from attn_inject.attention.registry import build

from .written import TIGHT, apart, channels, drawn, few_channels, maps, mean, normed, parameters_of, rows, shaken, sigma

Shape = tuple[int, list[int]]
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
forms = st.sampled_from(["code", "text"])


def shared(norm: Any, form: str) -> torch.Tensor:
    """The share of each weight in their sum; in the text's form of weights whose sum is not near 0."""
    if form == "text":
        with torch.no_grad():
            norm.weight.abs_().add_(0.1)
        return norm.weight / norm.weight.sum()
    return norm.weight.abs() / norm.weight.abs().sum()


@settings(max_examples=25, deadline=None)
@given(maps, channels, forms, st.booleans())
def test_nam(shape: Shape, c: int, form: str, training: bool) -> None:
    nam: Any = shaken(build("nam", c, options={"form": form})).train(training)
    x = drawn(shape[0], c, shape[1])
    shares = shared(nam.norm, form)
    normal = normed(nam.norm, x, batch=training and x.numel() > c)
    expected = x * sigma(normal * shares.reshape(1, c, *(1,) * len(shape[1])))
    assert apart(nam(x), expected) <= (1e-9 if training else TIGHT)
    assert parameters_of(nam) == 2 * c


@settings(max_examples=25, deadline=None)
@given(maps, few_channels, forms, st.sampled_from([None, 1, 3]), st.booleans())
def test_nam_of_positions(shape: Shape, c: int, form: str, size: int | None, training: bool) -> None:
    extents = shape[1] if size is None else [size] * len(shape[1])
    options = {"form": form, "size": extents}
    nam: Any = shaken(build("nam", c, ndim=len(extents), options=options)).train(training)
    x = drawn(shape[0], c, shape[1])
    shares = shared(nam.norm, form)
    normal = normed(nam.norm, x, batch=training and x.numel() > c)
    x = x * sigma(normal * shares.reshape(1, c, *(1,) * len(extents)))
    # As many channels as positions, of which each is a map of all images' channels.
    by_position = rows(averaged(x, extents)).transpose(1, 2)
    norm, count = nam.spatial.norm, math.prod(extents)
    shares = shared(norm, form)
    gate = sigma(normed(norm, by_position, batch=training and shape[0] * c > 1) * shares[:, None])
    gate = averaged(gate.transpose(1, 2).reshape(shape[0], c, *extents), shape[1])
    assert apart(nam(drawn(shape[0], c, shape[1])), x * gate) <= (1e-9 if training else TIGHT)
    assert parameters_of(nam) == 2 * c + 2 * count


def test_nam_of_weights_that_a_penalty_drove_to_zero() -> None:
    nam: Any = build("nam", 8)
    torch.nn.init.zeros_(nam.norm.weight)
    x = torch.randn(2, 8, 3, 3)
    assert torch.equal(nam(x), x / 2)


@settings(max_examples=25, deadline=None)
@given(maps, channels, forms, st.sampled_from([1, 8, 64]))
def test_sge(shape: Shape, c: int, form: str, groups: int) -> None:
    sge: Any = shaken(build("sge", c, options={"groups": groups, "form": form}))
    fitted = max(g for g in range(1, min(groups, c) + 1) if c % g == 0)
    assert bool(sge.adjustments) == (fitted != groups)
    x = drawn(shape[0], c, shape[1])
    count = math.prod(shape[1])
    out = []
    for part, weight, bias in zip(x.chunk(fitted, 1), sge.weight[:, 0], sge.bias[:, 0], strict=True):
        likeness = torch.einsum("ncs,nc->ns", rows(part), mean(part))
        off = likeness - likeness.mean(1, keepdim=True)
        divisor = count if form == "text" else max(count - 1, 1)
        normal = off / (torch.sqrt((off**2).sum(1, keepdim=True) / divisor) + 1e-5)
        out.append(rows(part) * sigma(weight * normal + bias)[:, None])
    assert apart(sge(x), torch.cat(out, 1).reshape(x.shape)) <= TIGHT
    assert parameters_of(sge) == 2 * fitted


@settings(max_examples=20, deadline=None)
@given(
    maps, few_channels, forms, st.sampled_from([2, 4]), st.sampled_from([1, 4]), st.sampled_from([3, 7]), st.booleans()
)
@example((1, [3, 2]), 2048, "code", 4, 4, 7, False)
def test_gam(shape: Shape, c: int, form: str, reduction: int, groups: int, kernel: int, training: bool) -> None:
    ndim = len(shape[1])
    kernel = 3 if ndim == 3 else kernel
    options = {"form": form, "reduction": reduction, "groups": groups, "kernel": kernel}
    gam: Any = shaken(build("gam", c, ndim=ndim, options=options)).train(training)
    x = drawn(shape[0], c, shape[1])
    width = max(c // reduction, 1)
    fitted = max(g for g in range(1, groups + 1) if c % g == 0 and width % g == 0)
    measured = training and math.prod(shape[1]) * shape[0] > 1
    w1, w2 = gam.fc1.weight.squeeze(2), gam.fc2.weight.squeeze(2)
    hidden = torch.clamp(torch.einsum("hc,ncs->nhs", w1, rows(x)) + gam.fc1.bias[:, None], min=0)
    channel = torch.einsum("ch,nhs->ncs", w2, hidden) + gam.fc2.bias[:, None]
    x2 = x * (sigma(channel) if form == "text" else channel).reshape(x.shape)
    conv, y = CONVOLUTIONS[ndim], x2
    for layer, norm, last in ((gam.conv1, gam.norm1, False), (gam.conv2, gam.norm2, True)):
        y = normed(norm, conv(y, layer.weight, layer.bias, padding=kernel // 2, groups=fitted), batch=measured)
        y = y if last else torch.clamp(y, min=0)
    weights = sigma(y)
    if fitted > 1:
        # The shuffle: channel j of group i becomes channel i of group j.
        weights = torch.stack([weights[:, i * (c // fitted) + j] for j in range(c // fitted) for i in range(fitted)], 1)
    assert apart(gam(x), x2 * weights) <= (1e-9 if training else TIGHT)
    positions = kernel**ndim
    counted = 2 * c * width + width + c + 2 * c * width * positions // fitted + width + c + 2 * width + 2 * c
    assert parameters_of(gam) == counted
    assert bool(gam.adjustments) == (fitted != groups or c < reduction)


def test_gam_at_2048_channels() -> None:
    with torch.device("meta"):
        assert round(parameters_of(build("gam", 2048)) / 1e6) == 105


def averaged(x: torch.Tensor, size: list[int]) -> torch.Tensor:
    """Adaptive average pooling, cell by cell."""
    out = torch.empty(*x.shape[:2], *size, dtype=x.dtype)
    for at in product(*(range(cells) for cells in size)):
        window = tuple(
            slice(i * extent // cells, -((-(i + 1) * extent) // cells))
            for i, cells, extent in zip(at, size, x.shape[2:], strict=True)
        )
        out[(..., *at)] = x[(slice(None), slice(None), *window)].flatten(2).mean(2)
    return out


def slid(row: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """(N, L): the kernel over each row, zeros beyond the ends."""
    k = len(kernel)
    padded = torch.cat([torch.zeros(len(row), k // 2), row, torch.zeros(len(row), k // 2)], 1)
    return torch.stack([padded[:, j : j + row.shape[1]] * kernel[j] for j in range(k)]).sum(0)


@settings(max_examples=20, deadline=None)
@given(maps, channels, forms, st.sampled_from([None, 1, 7]), st.sampled_from([1, 2, 5]), st.sampled_from([0, 0.5, 1]))
def test_mlca(shape: Shape, c: int, form: str, k: int | None, local_size: int, local_weight: float) -> None:
    options = {"k": k, "local_size": local_size, "local_weight": local_weight, "form": form}
    ndim = len(shape[1])
    mlca: Any = shaken(build("mlca", c, ndim=ndim, options=options))
    t = int(abs((math.log2(c) + 1) / 2))
    assert mlca.k == (k or (t if t % 2 else t + 1))
    x = drawn(shape[0], c, shape[1])
    patches = averaged(x, [local_size] * ndim)
    by_patch = rows(patches).transpose(1, 2)
    # The code's one row for all patches, or one for each.
    row = by_patch.reshape(shape[0], -1) if form == "code" else by_patch.reshape(-1, c)
    local = sigma(slid(row, mlca.conv_local.weight.flatten())).reshape(by_patch.shape)
    whole = sigma(slid(by_patch.mean(1), mlca.conv.weight.flatten()))[:, None]
    mixed = (local * local_weight + whole * (1 - local_weight)).transpose(1, 2).reshape(patches.shape)
    assert apart(mlca(x), x * averaged(mixed, shape[1])) <= TIGHT
    assert parameters_of(mlca) == 2 * mlca.k


def test_mlca_pools_as_torch_does() -> None:
    from attn_inject.attention.averaging import resized

    for size, wanted in (((14, 9), (5, 5)), ((3, 2), (5, 5)), ((5, 5), (14, 9)), ((1, 1), (5, 5))):
        x = drawn(2, 3, list(size))
        assert apart(resized(x, None, list(wanted)), F.adaptive_avg_pool2d(x, wanted)) <= TIGHT


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("nam", {"form": "mine"}, "form must be one of code, text"),
        ("nam", {"size": [7, 7, 7]}, "size must be one number, or one for each of 2 axes"),
        ("sge", {"groups": 0}, "groups must be a whole number from 1"),
        ("gam", {"kernel": 4}, "kernel must be odd"),
        ("gam", {"groups": 0}, "groups must be a whole number from 1"),
        ("gam", {"reduction": 0}, "reduction must be a number from 1"),
        ("mlca", {"k": 2}, "k must be odd"),
        ("mlca", {"local_size": 0}, "local_size must be a whole number from 1"),
        ("mlca", {"local_weight": 1.5}, "local_weight must be a number from 0 to 1"),
    ],
)
def test_impossible_settings(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(AttentionError, match="^[^\n]+$") as caught:
        build(name, 32, options=options)
    assert words in str(caught.value)
