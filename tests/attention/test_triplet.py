"""Triplet attention against its paper's equations, with the rotations written out, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_inject import AttentionError
from attn_inject.attention.registry import build

from .plain import CONVOLUTIONS, TIGHT, count, map_of, normalized, shaken, sigma


@settings(max_examples=10, deadline=None)
@given(
    st.one_of(st.integers(1, 300), st.sampled_from([1, 2, 2048])), st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.sampled_from([1, 3, 7]), st.booleans(),
)  # fmt: skip
def test_triplet(c: int, size: list[int], kernel: int, spatial: bool) -> None:
    """The equations: rotate so that the pooled axis stands where channels do, pool, convolve, rotate back."""
    n = len(size)
    if n == 3:
        c = min(c, 40)
    triplet: Any = shaken(build("triplet", c, ndim=n, options={"kernel": kernel, "spatial": spatial}).double()).eval()
    x = map_of(2, c, size)
    out = []
    for axis, conv, norm in zip(range(1 if spatial else 2, n + 2), triplet.convs, triplet.norms, strict=True):
        rotated = x.movedim(axis, 1)
        both = torch.stack([rotated.max(1).values, rotated.sum(1) / rotated.size(1)], 1)
        weights = sigma(normalized(CONVOLUTIONS[n](both, conv.weight, padding=kernel // 2), norm))
        out.append((rotated * weights).movedim(1, axis))
    assert (triplet(x) - sum(out) / len(out)).abs().max() <= TIGHT
    assert count(triplet) == len(out) * (2 * kernel**n + 2)


def test_parameters_of_the_paper() -> None:
    """6 k^2 for three gates (the paper's table 1), and two for each norm of the code."""
    assert count(build("triplet", 256)) == 6 * 7**2 + 6 == 300


def test_impossible_settings() -> None:
    with pytest.raises(AttentionError, match="kernel must be odd, got 2: 1 or 3"):
        build("triplet", 32, options={"kernel": 2})
