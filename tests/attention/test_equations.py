"""Every attention against its paper's equations, written out in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from attn_inject import AttentionError
from attn_inject.attention.eca import adaptive_kernel_size
from attn_inject.attention.psa import PSA
from attn_inject.attention.registry import build
from attn_inject.attention.se import hidden_width

TIGHT = 1e-12
# (N, C), (N, C, L), (N, C, H, W) and (N, C, D, H, W): the batch and the spatial sizes.
maps = st.tuples(st.integers(1, 3), st.lists(st.integers(1, 5), min_size=0, max_size=3))
channels = st.one_of(st.integers(1, 2048), st.sampled_from([1, 2, 3, 16, 24, 128, 1024, 2048]))
gates = st.sampled_from(["sigmoid", "hardsigmoid"])


def _map(n: int, c: int, size: list[int]) -> torch.Tensor:
    return torch.randn(n, c, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(c))


def _mean(x: torch.Tensor) -> torch.Tensor:
    """Over the spatial axes, as a sum over positions."""
    return x.reshape(*x.shape[:2], -1).sum(2) / math.prod(x.shape[2:])


def _gated(x: torch.Tensor, logits: torch.Tensor, gate: str = "sigmoid") -> torch.Tensor:
    weights = 1 / (1 + torch.exp(-logits)) if gate == "sigmoid" else torch.clamp(logits / 6 + 0.5, 0, 1)
    return x * weights.reshape(*logits.shape, *(1,) * (x.dim() - 2))


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": lambda z: torch.clamp(z, min=0),
    "relu6": lambda z: torch.clamp(z, 0, 6),
    "silu": lambda z: z / (1 + torch.exp(-z)),
    "gelu": lambda z: z * (1 + torch.erf(z / math.sqrt(2))) / 2,
    "hardswish": lambda z: z * torch.clamp(z + 3, 0, 6) / 6,
    "tanh": lambda z: (torch.exp(2 * z) - 1) / (torch.exp(2 * z) + 1),
}


@settings(max_examples=60, deadline=None)
@given(
    maps, channels, st.booleans(), st.sampled_from(["linear", "conv"]), gates, st.sampled_from(sorted(ACTIVATIONS)),
    st.sampled_from([1, 2, 4, 8, 16, 32, 2.5]), st.integers(1, 40),
)  # fmt: skip
def test_se(
    shape: tuple[int, list[int]], c: int, bias: bool, form: str, gate: str, act: str, reduction: float, least: int
) -> None:
    options = {"reduction": reduction, "min_width": least, "bias": bias, "form": form, "gate": gate, "act": act}
    se = build("se", c, options=options).double()
    x = _map(shape[0], c, shape[1])
    w1, w2 = (layer.weight.flatten(1) for layer in (se.fc1, se.fc2))
    hidden = ACTIVATIONS[act](_mean(x) @ w1.T + (se.fc1.bias if bias else 0))
    logits = hidden @ w2.T + (se.fc2.bias if bias else 0)
    assert (se(x) - _gated(x, logits, gate)).abs().max() <= TIGHT
    width = max(math.floor(c / reduction), least)
    assert w1.shape == (width, c)
    assert sum(p.numel() for p in se.parameters()) == 2 * c * width + (c + width if bias else 0)


@settings(deadline=None)
@given(channels, st.sampled_from([2, 4, 8, 16]), st.sampled_from([2, 4, 8, 16]))
def test_rounded_widths_are_timms(c: int, reduction: int, divisor: int) -> None:
    timm_layers = pytest.importorskip("timm.layers")
    wanted = timm_layers.make_divisible(c / reduction, divisor, round_limit=0.0)
    assert hidden_width(c, reduction, divisor) == wanted


@pytest.mark.parametrize(
    ("options", "width", "fitted"),
    [
        ({}, 1, True),
        ({"reduction": 8}, 1, False),
        ({"reduction": 7.5}, 1, False),
        ({"reduction": 9}, 1, True),
        ({"min_width": 2}, 2, False),
        ({"divisor": 8}, 8, False),
        ({"rd_channels": 3}, 3, False),
    ],
)
def test_a_reduction_wider_than_the_channels_leaves_one(options: dict[str, Any], width: int, fitted: bool) -> None:
    """Said only where nothing that was asked for sets the width."""
    se: Any = build("se", 8, options=options)
    assert se.fc1.weight.shape == (width, 8)
    assert bool(se.adjustments) == bool(se.unmet) == fitted


def test_a_given_width_wins() -> None:
    assert build("se", 64, options={"rd_channels": 5, "reduction": 4, "min_width": 9}).fc1.weight.shape == (5, 64)


@settings(max_examples=30, deadline=None)
@given(maps, channels, st.booleans())
def test_se_as_convolutions_is_se_as_linears(shape: tuple[int, list[int]], c: int, bias: bool) -> None:
    options = {"min_width": 1, "bias": bias}
    linear = build("se", c, options=options).double()
    conv = build("se", c, options={**options, "form": "conv"}).double()
    given = linear.state_dict()
    conv.load_state_dict({k: v[..., None, None] if v.dim() == 2 else v for k, v in given.items()}, strict=True)
    x = _map(shape[0], c, shape[1])
    assert (linear(x) - conv(x)).abs().max() <= TIGHT


def _banded(y: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """z_i = sum over j of rows[i, j] y_(i + j - k//2), zero beyond the ends: equation 6 of the ECA paper."""
    c, k = rows.shape
    padded = torch.cat([torch.zeros(len(y), k // 2).double(), y, torch.zeros(len(y), k // 2).double()], 1)
    return torch.stack([padded[:, j : j + c] * rows[:, j] for j in range(k)]).sum(0)


@settings(max_examples=40, deadline=None)
@given(
    maps, channels, gates, st.one_of(st.none(), st.sampled_from([1, 3, 5, 9])), st.sampled_from([1, 2, 3.5]),
    st.sampled_from([-1, 0, 1, 2]), st.sampled_from(["eca", "eca-ns"]),
)  # fmt: skip
def test_eca_shared_and_not(
    shape: tuple[int, list[int]], c: int, gate: str, k: int | None, gamma: float, b: float, name: str
) -> None:
    eca: Any = build(name, c, options={"k": k, "gamma": gamma, "b": b, "gate": gate}).double()
    t = math.floor(abs((math.log2(c) + b) / gamma))
    assert eca.k == (k or (t if t % 2 else t + 1))
    rows = eca.conv.weight.reshape(1, -1).expand(c, -1) if name == "eca" else eca.weight
    assert rows.shape == (c, eca.k)
    assert sum(p.numel() for p in eca.parameters()) == (eca.k if name == "eca" else eca.k * c)
    x = _map(shape[0], c, shape[1])
    assert (eca(x) - _gated(x, _banded(_mean(x), rows), gate)).abs().max() <= TIGHT


# arXiv 1910.03151 and the authors' code; C = 128 ties between 3 and 5, and the code gives 5.
KERNELS = {
    16: 3,
    24: 3,
    32: 3,
    40: 3,
    64: 3,
    96: 3,
    112: 3,
    128: 5,
    160: 5,
    192: 5,
    256: 5,
    320: 5,
    512: 5,
    1024: 5,
    2048: 7,
}


@pytest.mark.parametrize("c", KERNELS)
def test_adaptive_kernel(c: int) -> None:
    assert adaptive_kernel_size(c) == KERNELS[c]


@settings(max_examples=40, deadline=None)
@given(maps, channels, gates, st.integers(1, 64), st.sampled_from(["se-var1", "se-var2", "se-var3", "se-gc"]))
def test_variants(shape: tuple[int, list[int]], c: int, gate: str, groups: int, name: str) -> None:
    """ECA paper, Table 2: w = sigma(W y), W written out."""
    options = {"gate": gate, "groups": groups} if name == "se-gc" else {"gate": gate}
    module: Any = build(name, c, options=options).double()
    if name == "se-var1":
        matrix, count = torch.eye(c).double(), 0
    elif name == "se-var2":
        with torch.no_grad():
            # It starts at ones, which would not tell one weight from another.
            module.weight.copy_(torch.randn(c))
        matrix, count = torch.diag(module.weight), c
    elif name == "se-var3":
        matrix, count = module.fc.weight, c * c
    else:
        fitted = max(g for g in range(1, min(groups, c) + 1) if c % g == 0)
        assert module.groups == fitted
        assert bool(module.adjustments) == (fitted != groups)
        matrix = torch.block_diag(*module.fc.weight.squeeze(2).chunk(fitted))
        count = c * c // fitted
    assert sum(p.numel() for p in module.parameters()) == count
    x = _map(shape[0], c, shape[1])
    assert (module(x) - _gated(x, _mean(x) @ matrix.T, gate)).abs().max() <= TIGHT


CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@settings(max_examples=30, deadline=None)
@given(
    st.one_of(st.integers(1, 130), st.sampled_from([256, 500, 1024])), st.sampled_from([1, 2]), st.integers(1, 3),
    st.sampled_from(["reversed", "natural"]), st.sampled_from([(3, 5, 7, 9), (3, 5, 5, 7), (1, 3)]),
    st.sampled_from([4, 16]), st.sampled_from([None, 1, 6, 40]),
)  # fmt: skip
@example(2048, 1, 2, "reversed", (3, 5, 7, 9), 16, None)
@pytest.mark.slow
def test_psa(
    c: int, stride: int, ndim: int, order: str, kernels: tuple[int, ...], reduction: int, out_channels: int | None
) -> None:
    """EPSANet's equations 2 to 10 as a loop over the branches; the released code goes through them backwards."""
    wanted = (1, 4, 8, 16)[: len(kernels)]
    if ndim == 3:
        c = min(c, 130)
    options: dict[str, Any] = {
        "kernels": kernels,
        "groups": wanted,
        "reduction": reduction,
        "out_channels": out_channels,
    }
    psa: Any = PSA(c, stride=stride, order=order, ndim=ndim, **options).double()
    size = [6, 5, 4][:ndim]
    x = _map(2, c, size)
    out_channels = out_channels or c
    width = math.ceil(out_channels / len(kernels))
    branches: list[torch.Tensor] = []
    scores: list[torch.Tensor] = []
    for conv, kernel, groups in zip(psa.convs, kernels, wanted, strict=True):
        fitted = max(g for g in range(1, groups + 1) if c % g == 0 and width % g == 0)
        assert conv.weight.shape == (width, c // fitted, *(kernel,) * ndim)
        assert conv.bias is None
        branch = CONVOLUTIONS[ndim](x, conv.weight, stride=stride, padding=kernel // 2, groups=fitted)
        first, second = psa.weight.fc1, psa.weight.fc2
        assert len(first.weight) == max(width // reduction, 1)
        hidden = torch.clamp(_mean(branch) @ first.weight.flatten(1).T + first.bias, min=0)
        scores.append(torch.sigmoid(hidden @ second.weight.flatten(1).T + second.bias))
        branches.append(branch)
    total = sum(torch.exp(score) for score in scores)
    out: list[torch.Tensor] = []
    for branch, score in zip(branches, scores, strict=True):
        weighted = branch * (torch.exp(score) / total).reshape(2, width, *(1,) * ndim)
        out = [weighted, *out] if order == "reversed" else [*out, weighted]
    expected = torch.cat(out, 1)[:, :out_channels]
    assert (psa(x) - expected).abs().max() <= TIGHT
    assert psa(x).shape == (2, out_channels, *(math.ceil(extent / stride) for extent in size))


def test_psa_at_2048_channels() -> None:
    """As at the end of a ResNet-50: 27.76 M parameters (counted)."""
    with torch.device("meta"):
        psa = PSA(2048)
        assert psa(torch.empty(1, 2048, 7, 7)).shape == (1, 2048, 7, 7)
    assert round(sum(p.numel() for p in psa.parameters()) / 1e6, 2) == 27.76


def test_psa_fits_groups_and_says_so() -> None:
    assert PSA(256).adjustments == ()
    assert PSA(24).adjustments == (
        "with groups (1, 4, 8, 16) fitted to (1, 3, 6, 6)",
        "with branches narrower than the reduction 16: hidden width 1",
    )
    assert PSA(250, groups=(1, 1, 1, 1)).adjustments == (
        "with widths that 4 branches do not divide: rounded up, and cut",
    )
    assert all(24 % conv.groups == 0 and 6 % conv.groups == 0 for conv in PSA(24).convs)


GATES = ("se", "eca", "se-var2", "se-var3", "se-gc", "eca-ns")
FEATURES = ("psa", "se-var1")


@pytest.mark.parametrize(
    ("name", "ndim"),
    # Vectors too, but for PSA, whose convolutions need a map.
    [(name, ndim) for name in (*GATES, *FEATURES) for ndim in range(4) if ndim or name != "psa"],
)
def test_identity_start_is_exact_and_learns(name: str, ndim: int) -> None:
    torch.manual_seed(0)
    # A hidden layer of one unit may start dead; four of them do not.
    options = {"reduction": 2} if name == "psa" else {}
    module = build(name, 32, ndim=ndim or 2, init="identity", options=options)
    x = torch.randn(2, 32, *(7,) * ndim)
    assert torch.equal(module(x), x)
    optimizer = torch.optim.SGD(module.parameters(), 0.5)
    for _ in range(2):
        optimizer.zero_grad()
        (module(x) * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "ndim"), [(name, ndim) for name in (*GATES, *FEATURES) for ndim in range(4) if ndim or name != "psa"]
)
def test_gradients(name: str, ndim: int) -> None:
    torch.manual_seed(0)
    options = {"reduction": 2} if name in ("se", "psa") else {}
    module = build(name, 8, ndim=ndim or 2, options=options).double()
    x = _map(2, 8, [3, 2, 2][:ndim]).requires_grad_()

    def run(*_: torch.Tensor) -> torch.Tensor:
        return module(x)

    assert torch.autograd.gradcheck(run, (x, *module.parameters()), fast_mode=True)


@settings(max_examples=40, deadline=None)
@given(channels, maps, st.sampled_from([*GATES, "se-var1"]), gates, st.sampled_from([torch.float32, torch.bfloat16]))
def test_identity_start_at_any_shape(
    c: int, shape: tuple[int, list[int]], name: str, gate: str, dtype: torch.dtype
) -> None:
    options = {"gate": gate, **({"min_width": 1} if name == "se" else {})}
    module = build(name, c, init="identity", options=options).to(dtype)
    x = _map(shape[0], c, shape[1]).to(dtype)
    assert torch.equal(module(x), x)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.channels_last_3d])
@pytest.mark.parametrize("name", [*GATES, *FEATURES])
def test_layouts_give_the_same_and_stay(name: str, layout: torch.memory_format) -> None:
    ndim = 2 if layout is torch.channels_last else 3
    module = build(name, 32, ndim=ndim).double()
    x = _map(2, 32, [4, 5, 3][:ndim])
    moved = module(x.to(memory_format=layout))
    assert (moved - module(x)).abs().max() <= TIGHT
    if name in (*GATES, "se-var1"):
        assert moved.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("name", ["se", "eca"])
def test_gain_multiplies_the_gate(name: str) -> None:
    torch.manual_seed(0)
    plain, doubled = build(name, 32), build(name, 32, options={"gain": 2.0})
    doubled.load_state_dict(plain.state_dict(), strict=True)
    x = torch.randn(2, 32, 4, 4)
    assert torch.equal(doubled(x), 2 * plain(x))
    assert torch.equal(build(name, 32, init="identity", options={"gain": 2.0})(x), x)
    with pytest.raises(AttentionError, match="init='identity' needs gain 2"):
        build(name, 32, init="identity", options={"gain": 1.5})
    for wrong in (0, -1, math.inf, math.nan, True, "2"):
        with pytest.raises(AttentionError, match="gain must be a number above 0"):
            build(name, 32, options={"gain": wrong})


@pytest.mark.parametrize("name", ["se", "eca", "psa", "se-gc"])
def test_runs_where_models_run(name: str) -> None:
    module = build(name, 32).eval()
    x = torch.randn(2, 32, 6, 6)
    with torch.no_grad():
        y = module(x)
        assert torch.equal(torch.compile(module, fullgraph=True, backend="eager")(x), y)
        assert torch.equal(torch.jit.trace(module, x)(x), y)
        exported = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=1, max=64)},))
        assert torch.allclose(exported.module()(x[:1]), module(x[:1]), atol=1e-6)
        last = module(x.to(memory_format=torch.channels_last))
        assert torch.allclose(last, y, atol=1e-6)
        for dtype in (torch.bfloat16, torch.float16):
            assert build(name, 32).to(dtype)(x.to(dtype)).dtype == dtype
        with torch.autocast("cpu", torch.bfloat16):
            assert module(x).shape == x.shape
    with torch.device("meta"):
        assert build(name, 32)(torch.empty(2, 32, 6, 6)).shape == x.shape


def test_timm_modules_load_strictly_and_agree() -> None:
    timm_layers = pytest.importorskip("timm.layers")
    x = torch.randn(2, 64, 5, 5)
    theirs = timm_layers.SEModule(64)
    ours = build("se", 64, options={"form": "conv", "bias": True, "divisor": 8})
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(x), theirs(x))
    theirs = timm_layers.EcaModule(64)
    ours = build("eca", 64)
    ours.load_state_dict(theirs.state_dict())
    assert (ours(x) - theirs(x)).abs().max() <= 1e-6


def test_repeatable_with_a_seed() -> None:
    def made() -> nn.Module:
        torch.manual_seed(4)
        return build("se", 64)

    assert all(torch.equal(a, b) for a, b in zip(made().parameters(), made().parameters(), strict=True))
