"""Selective kernels against their paper's equations, in float64; in the place of a convolution; and timm's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from attn_inject import AttentionError, PlanError, inject
from attn_inject.attention.registry import build
from attn_inject.attention.sk import SK

from .. import toys
from .plain import CONVOLUTIONS, TIGHT, count, map_of, normalized, shaken, spread


@settings(max_examples=10, deadline=None)
@given(
    st.one_of(st.integers(1, 200), st.sampled_from([1, 512])), st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.sampled_from([None, 1, 6, 40]), st.integers(1, 3), st.sampled_from([1, 4, 32]), st.sampled_from([1, 2]),
    st.sampled_from([2, 16]), st.sampled_from([4, 32]),
)  # fmt: skip
@example(2048, [3, 4], None, 2, 32, 1, 16, 32)
def test_sk(
    c: int,
    size: list[int],
    out_channels: int | None,
    branches: int,
    groups: int,
    stride: int,
    reduction: int,
    least: int,
) -> None:
    """The equations, branch by branch."""
    n = len(size)
    if n == 3:
        c = min(c, 100)
    options: dict[str, Any] = {"branches": branches, "groups": groups, "reduction": reduction, "min_width": least}
    sk: Any = shaken(SK(c, out_channels, stride=stride, ndim=n, **options).double()).eval()
    width = out_channels or c
    fitted = max(g for g in range(1, groups + 1) if c % g == 0 and width % g == 0)
    assert bool(sk.adjustments) == (fitted != groups)
    x = map_of(2, c, size)
    u = []
    for i, (conv, norm, _) in enumerate(sk.paths, 1):
        moved = CONVOLUTIONS[n](x, conv.weight, stride=stride, padding=i, dilation=i, groups=fitted)
        u.append(torch.clamp(normalized(moved, norm), min=0))
    s = sum(u).flatten(2).mean(2)
    z = torch.clamp(normalized(s @ sk.reduce.weight.T, sk.norm), min=0)
    scores = [torch.exp(z @ a.T) for a in sk.select.weight.chunk(branches)]
    expected = sum(each * spread(score / sum(scores), each) for each, score in zip(u, scores, strict=True))
    assert (sk(x) - expected).abs().max() <= TIGHT * max(1.0, expected.abs().max().item())
    assert sk(x).shape == (2, width, *(-(-extent // stride) for extent in size))
    d = max(width // reduction, least)
    paths = branches * (width * (c // fitted) * 3**n + 2 * width)
    assert count(sk) == paths + width * d + 2 * d + branches * d * width


def test_sk_is_timms_with_its_weights() -> None:
    """timm's, without the split of the input that the paper does not have."""
    timm_sk = pytest.importorskip("timm.layers.selective_kernel")
    theirs = shaken(timm_sk.SelectiveKernel(64, groups=32, split_input=False, rd_channels=32)).eval()
    ours = build("sk", 64).eval()
    words = {"conv.": "0.", "bn.": "1."}
    moved = {}
    for key, value in theirs.state_dict().items():
        if key.startswith("paths."):
            _, number, rest = key.split(".", 2)
            kind = rest.partition(".")[0] + "."
            moved[f"paths.{number}.{words[kind]}{rest.partition('.')[2]}"] = value
        else:
            new = key.replace("attn.fc_", "").replace("attn.bn", "norm")
            moved[new] = value.flatten(1) if value.dim() == 4 else value
    ours.load_state_dict(moved, strict=True)
    x = torch.randn(2, 64, 9, 6)
    assert (ours(x) - theirs(x)).abs().max() <= 1e-5


def test_it_takes_the_place_of_a_spatial_convolution() -> None:
    """Any attention with out_channels and stride can: what they are is taken over from the convolution."""
    model = torchvision.models.resnet50(width_per_group=8)
    patched = inject(model, "sk", placement="replace", stages=[4], input_size=64)
    blocks = patched.layer3
    assert [type(block.sk) for block in blocks] == [SK] * 6
    assert blocks[0].sk.paths[1][0].stride == (2, 2)
    assert blocks[0].sk.paths[1][0].dilation == (2, 2)
    with torch.no_grad():
        assert patched.eval()(torch.randn(1, 3, 64, 64)).isfinite().all()


@pytest.mark.parametrize("name", ["sk", "psa"])
def test_strides_that_differ_by_axis_are_taken_over(name: str) -> None:
    def run(m: toys.Lambda, x: torch.Tensor) -> torch.Tensor:
        return m.project(x) + m.last(torch.relu(m.middle(torch.relu(m.first(x)))))

    layers = {
        "first": toys.conv(16, 8, 1),
        "middle": nn.Conv2d(8, 8, 3, (1, 2), 1),
        "last": toys.conv(8, 16, 1),
        "project": nn.Conv2d(16, 16, 1, (1, 2)),
    }
    patched = inject(toys.Toy(toys.Lambda(run, **layers)), name, placement="replace", input_size=(3, 16, 16))
    (insertion,) = patched.injection.plan.insertions
    assert insertion.options["stride"] == (1, 2)
    assert patched.get_submodule(insertion.module)(torch.randn(1, 8, 6, 6)).shape == (1, 8, 6, 3)
    with pytest.raises(AttentionError, match=r"stride must be one number, or one for each of 3 axes, got \(1, 2\)"):
        build(name, 8, ndim=3, options={"stride": (1, 2)})


def test_what_changes_the_shape_cannot_be_replaced_by_what_keeps_it() -> None:
    model = toys.Toy(toys.Block(toys.SPELLINGS["+"]))
    assert inject(model, "sk", placement="standard", input_size=(3, 16, 16))
    with pytest.raises(PlanError, match="cbam cannot take the place of .*: it has no out_channels and no stride"):
        inject(torchvision.models.resnet50(width_per_group=8), "cbam", placement="replace", input_size=64)


def test_impossible_settings() -> None:
    for options, words in (
        ({"branches": 0}, "branches must be a whole number from 1"),
        ({"groups": 0}, "groups must be a whole number from 1"),
        ({"stride": 0}, "stride must be a whole number from 1"),
    ):
        with pytest.raises(AttentionError, match=words):
            build("sk", 32, options=options)
    with pytest.raises(AttentionError, match="init='identity' needs a module that keeps the shape"):
        build("sk", 32, init="identity", options={"stride": 2})
