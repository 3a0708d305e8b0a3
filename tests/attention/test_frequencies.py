"""FcaNet's frequency channel attention, by the definition of the DCT."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_inject import AttentionError
from attn_inject.attention.fca import frequencies_of
from attn_inject.attention.registry import build

from .written import TIGHT, apart, channels, drawn, mean, parameters_of, scaled, shaken, sigma


def waves(u: int, extent: int, form: str) -> torch.Tensor:
    u = min(u, extent - 1) * max(extent // 7, 1)
    values = torch.tensor([math.cos(math.pi * u / extent * (i + 0.5)) for i in range(extent)], dtype=torch.float64)
    return values if form == "text" else values * math.sqrt((1 if u == 0 else 2) / extent)


def spectrum(x: torch.Tensor, frequencies: list[list[int]], form: str) -> torch.Tensor:
    """(N, C): channel by channel, the map times the product of its waves."""
    c = x.shape[1]
    pooled = []
    for channel in range(c):
        product = torch.ones((), dtype=torch.float64)
        for u, extent in zip(frequencies[channel * len(frequencies) // c], x.shape[2:], strict=True):
            product = product[..., None] * waves(u, extent, form)
        pooled.append((x[:, channel] * product).flatten(1).sum(1))
    return torch.stack(pooled, 1)


def expected(fca: Any, pooled: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return scaled(x, sigma(torch.clamp(pooled @ fca.fc1.weight.T, min=0) @ fca.fc2.weight.T))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 2), st.one_of(st.integers(1, 200), st.sampled_from([1, 16, 256, 2048])), st.tuples(
        st.integers(1, 30), st.integers(1, 30)
    ), st.sampled_from(["top16", "low4", "bot32", "top1"]), st.sampled_from(["code", "text"]),
)  # fmt: skip
def test_fca(n: int, c: int, size: tuple[int, int], frequencies: str, form: str) -> None:
    fca: Any = shaken(build("fca", c, options={"frequencies": frequencies, "form": form}))
    x = drawn(n, c, list(size))
    pooled = spectrum(x, frequencies_of(frequencies, 2), form)
    assert apart(fca(x), expected(fca, pooled, x)) <= TIGHT
    assert any("frequencies do not divide" in said for said in fca.adjustments) == (c % int(frequencies[3:]) != 0)


@settings(max_examples=20, deadline=None)
@given(channels, st.sampled_from([2, 16, 40]))
def test_parameters(c: int, reduction: int) -> None:
    fca: Any = build("fca", c, options={"reduction": reduction})
    assert parameters_of(fca) == 2 * c * max(c // reduction, 1)
    assert bool(fca.unmet) == (c < reduction)
    assert set(fca.state_dict()) == {"fc1.weight", "fc2.weight"}


@pytest.mark.parametrize("ndim", [1, 3])
def test_other_ranks_take_frequencies_of_their_own(ndim: int) -> None:
    frequencies = [[0] * ndim, [1] + [0] * (ndim - 1), [2] * ndim]
    fca: Any = shaken(build("fca", 8, ndim=ndim, options={"frequencies": frequencies}))
    x = drawn(2, 8, [9, 4, 15][:ndim])
    assert apart(fca(x), expected(fca, spectrum(x, frequencies, "code"), x)) <= TIGHT
    # By name, the lowest: those whose numbers have the smallest sum.
    named: Any = build("fca", 64, ndim=ndim, options={"reduction": 8})
    grid = sorted(itertools.product(range(7), repeat=ndim), key=sum)
    assert {tuple(each) for each in named.frequencies.T.tolist()} == set(grid[:16])
    assert named.adjustments[0] == f"with top16, pairs for maps of 2 axes, fitted to the {min(7**ndim, 16)} lowest"
    assert not any(
        "fitted" in said for said in build("fca", 64, ndim=ndim, options={"frequencies": "low4"}).adjustments
    )


@pytest.mark.parametrize("size", [(14, 14), (10, 17), (3, 30)])
def test_a_given_size_pools_to_it(size: tuple[int, int]) -> None:
    fca: Any = shaken(build("fca", 32, options={"size": [14, 7]}))
    x = drawn(2, 32, list(size))
    small = torch.nn.functional.adaptive_avg_pool2d(x, (14, 7))
    pooled = spectrum(small, frequencies_of("top16", 2), "code")
    assert apart(fca(x), expected(fca, pooled, x)) <= TIGHT


def test_frequency_zero_is_the_mean() -> None:
    fca: Any = shaken(build("fca", 16, options={"frequencies": "top1"}))
    x = drawn(2, 16, [6, 5])
    assert apart(fca.pool(x), mean(x) * math.sqrt(30)) <= TIGHT


def test_a_frequency_is_the_same_on_a_larger_map() -> None:
    """A wave drawn on 7 x 7 and blown up to 28 x 28 is seen by the frequency that saw it, and by no other."""
    seen: dict[int, int] = {}
    fca: Any = build("fca", 7, options={"frequencies": [[u, 0] for u in range(7)]}).double()
    for u in range(7):
        for extent in (7, 28):
            step = max(extent // 7, 1)
            wave = torch.cos(math.pi * u * step / extent * (torch.arange(extent, dtype=torch.float64) + 0.5))
            y = fca.pool(wave[None, None, :, None].expand(1, 7, extent, extent))[0].abs()
            assert int(y.argmax()) == u
            assert (y > 1e-9).sum() == 1
            seen[u] = extent
    assert len(seen) == 7


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frequencies": "top3"}, "frequencies must be top, low or bot and one of 1, 2, 4, 8, 16, 32"),
        ({"frequencies": "mid16"}, "frequencies must be top, low or bot"),
        ({"frequencies": [[1]]}, "frequencies must be tuples of 2"),
        ({"frequencies": []}, "frequencies must be tuples of 2"),
        ({"frequencies": [[1, -1]]}, "frequencies must be a whole number from 0"),
        ({"size": [7, 7, 7]}, "size must be one number, or one for each of 2 axes"),
        ({"size": 0}, "size must be a whole number from 1"),
        ({"reduction": 0}, "reduction must be a number from 1"),
        ({"form": "paper"}, "form must be one of code, text"),
    ],
)
def test_impossible_settings(options: dict[str, Any], words: str) -> None:
    with pytest.raises(AttentionError, match="^[^\n]+$") as caught:
        build("fca", 32, options=options)
    assert words in str(caught.value)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_pool_keeps_its_waves_once_for_all_images(axes: int) -> None:
    pool: Any = build("fca", 16, ndim=axes).pool

    def kept(images: int) -> int:
        x = torch.randn(images, 16, *(8,) * axes, requires_grad=True)
        found: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            found[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            pooled = pool(x)
        with torch.no_grad():
            torch.testing.assert_close(pooled, pool(x))
        return sum(tensor.untyped_storage().nbytes() for tensor in found.values())

    assert kept(2) == kept(32) == axes * 16 * 8 * 4
