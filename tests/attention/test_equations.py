"""Every attention against its paper's equations, written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attn_inject.attention import build
from attn_inject.attention.eca import adaptive_kernel_size
from attn_inject.attention.psa import PSA

TIGHT = 1e-12
maps = st.tuples(st.integers(1, 3), st.lists(st.integers(1, 5), min_size=1, max_size=3))


def _map(n: int, c: int, size: list[int]) -> torch.Tensor:
    return torch.randn(n, c, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(c))


def _gated(x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return x * (1 / (1 + torch.exp(-logits))).reshape(*logits.shape, *(1,) * (x.dim() - 2))


@settings(max_examples=30, deadline=None)
@given(maps, st.sampled_from([1, 2, 16, 24, 128, 2048]), st.booleans(), st.sampled_from(["linear", "conv"]))
def test_se(shape: tuple[int, list[int]], c: int, bias: bool, form: str) -> None:
    se = build("se", c, options={"min_width": 1, "bias": bias, "form": form}).double()
    x = _map(shape[0], c, shape[1])
    y = x.flatten(2).mean(2)
    w1, w2 = (layer.weight.flatten(1) for layer in (se.fc1, se.fc2))
    hidden = torch.clamp(y @ w1.T + (se.fc1.bias if bias else 0), min=0)
    assert (se(x) - _gated(x, hidden @ w2.T + (se.fc2.bias if bias else 0))).abs().max() <= TIGHT
    assert w1.shape == (max(c // 16, 1), c)


@settings(max_examples=30, deadline=None)
@given(maps, st.integers(1, 2048))
def test_eca(shape: tuple[int, list[int]], c: int) -> None:
    eca = build("eca", c).double()
    x = _map(shape[0], c, shape[1])
    y, w, k = x.flatten(2).mean(2), eca.conv.weight.flatten(), eca.k
    padded = torch.cat([torch.zeros(len(y), k // 2).double(), y, torch.zeros(len(y), k // 2).double()], 1)
    logits = torch.stack([(padded[:, i : i + k] * w).sum(1) for i in range(c)], 1)
    assert (eca(x) - _gated(x, logits)).abs().max() <= TIGHT


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


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 300), st.sampled_from(["se-var1", "se-var2", "se-var3", "se-gc", "eca-ns"]))
def test_variants(n: int, c: int, name: str) -> None:
    module = build(name, c).double()
    parameters = sum(p.numel() for p in module.parameters())
    x = _map(n, c, [3, 2])
    y = x.flatten(2).mean(2)
    if name == "se-var1":
        matrix, count = torch.eye(c).double(), 0
    elif name == "se-var2":
        matrix, count = torch.diag(module.weight), c
    elif name == "se-var3":
        matrix, count = module.fc.weight, c * c
    elif name == "se-gc":
        matrix = torch.block_diag(*module.fc.weight.squeeze(2).chunk(module.groups))
        count = c * c // module.groups
        assert c % module.groups == 0
    else:
        matrix, count = torch.zeros(c, c).double(), module.k * c
        for i in range(c):
            for j in range(module.k):
                if 0 <= i + j - module.k // 2 < c:
                    matrix[i, i + j - module.k // 2] = module.weight[i, j]
    assert parameters == count
    assert (module(x) - _gated(x, y @ matrix.T)).abs().max() <= TIGHT


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 130), st.sampled_from([1, 2]), st.sampled_from(["reversed", "natural"]))
def test_psa(c: int, stride: int, order: str) -> None:
    psa = PSA(c, stride=stride, order=order).double()
    x = _map(2, c, [6, 5])
    branches = [conv(x) for conv in psa.convs]
    for conv, kernel, wanted in zip(psa.convs, (3, 5, 7, 9), (1, 4, 8, 16), strict=True):
        assert conv.kernel_size == (kernel, kernel)
        assert conv.groups <= wanted
        assert conv.bias is None
    scores = []
    for branch in branches:
        pooled = branch.flatten(2).mean(2)
        first, second = psa.weight.fc1, psa.weight.fc2
        hidden = torch.clamp(pooled @ first.weight.flatten(1).T + first.bias, min=0)
        scores.append(torch.sigmoid(hidden @ second.weight.flatten(1).T + second.bias))
    exponents = [torch.exp(score) for score in scores]
    out = []
    for branch, e in zip(branches, exponents, strict=True):
        weighted = branch * (e / sum(exponents))[:, :, None, None]
        out = [weighted, *out] if order == "reversed" else [*out, weighted]
    assert (psa(x) - torch.cat(out, 1)[:, :c]).abs().max() <= TIGHT
    assert psa(x).shape == (2, c, math.ceil(6 / stride), math.ceil(5 / stride))


def test_psa_fits_groups_and_says_so() -> None:
    assert PSA(256).adjustments == ()
    (said,) = PSA(24).adjustments
    assert said == "groups (1, 4, 8, 16) fitted to (1, 3, 6, 6)"
    assert all(24 % conv.groups == 0 and 6 % conv.groups == 0 for conv in PSA(24).convs)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("name", ["se", "eca", "psa", "se-var1", "se-var2", "se-var3", "se-gc", "eca-ns"])
def test_identity_start_is_exact_and_learns(name: str, ndim: int) -> None:
    torch.manual_seed(0)
    # A hidden layer of one unit may start dead; four of them do not.
    options = {"reduction": 2} if name == "psa" else {}
    module = build(name, 32, ndim=ndim, init="identity", options=options)
    x = torch.randn(2, 32, *(7,) * ndim)
    assert torch.equal(module(x), x)
    optimizer = torch.optim.SGD(module.parameters(), 0.5)
    for _ in range(2):
        optimizer.zero_grad()
        (module(x) * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


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
