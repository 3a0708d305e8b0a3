"""Norm, gate and add whose backward needs the norm's input only: against torch's own operations, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from attn_inject.attention.eca import ECA
from attn_inject.attention.gating import ChannelGate
from attn_inject.attention.se import SE
from attn_inject.optimizing.map_sums import sums_over_space
from attn_inject.optimizing.train_steps import gate_and_add, norm_and_pool, scale_and_add, weights_of


class Spread(ChannelGate):
    """Pools by mean plus weighted standard deviation: a statistic that no convolution commutes with."""

    pools_mean = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.rand(channels))
        self.unused = nn.Parameter(torch.rand(2), requires_grad=False)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) + self.share * (x.var((2, 3)) + 0.1).sqrt()

    def squeeze(self, pooled: torch.Tensor) -> torch.Tensor:
        return pooled * 1.5


def _without(name: str) -> nn.Module:
    norm = nn.BatchNorm2d(8)
    setattr(norm, name, None)
    return norm


NORMS = {
    "batch": lambda: nn.BatchNorm2d(8),
    "no momentum": lambda: nn.BatchNorm2d(8, momentum=None),
    "not affine": lambda: nn.BatchNorm2d(8, affine=False),
    "no statistics": lambda: nn.BatchNorm2d(8, track_running_stats=False),
    "frozen": lambda: nn.BatchNorm2d(8).eval(),
    "no statistics, eval": lambda: nn.BatchNorm2d(8, track_running_stats=False).eval(),
    "no weight": lambda: _without("weight"),
    "no bias": lambda: _without("bias"),
    "converted": lambda: nn.GroupNorm(2, 8),
}


def _norm(name: str) -> nn.Module:
    norm = NORMS[name]().double()
    with torch.no_grad():
        for tensor in norm.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return norm


def _block(
    norm: nn.Module, gate: ChannelGate, z: torch.Tensor, shortcut: torch.Tensor | None, *, conv: nn.Module | None = None
) -> torch.Tensor:
    early = () if conv is None else (conv, z)
    normed = norm_and_pool(norm, z if conv is None else conv(z), gate, *early)
    return gate_and_add(normed, weights_of(gate, normed.pooled, normed.value), shortcut)


def _plain(norm: nn.Module, gate: ChannelGate, z: torch.Tensor, shortcut: torch.Tensor | None) -> torch.Tensor:
    out = gate(norm(z))
    return out if shortcut is None else out + shortcut


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("gate", [ECA(8, 3), SE(8, 2, bias=True), Spread(8)], ids=["eca", "se", "spread"])
@pytest.mark.parametrize("name", NORMS)
def test_values_gradients_and_statistics(name: str, gate: ChannelGate, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    norm, gate = _norm(name), copy.deepcopy(gate).double()
    twins = copy.deepcopy((norm, gate))
    z, shortcut = (torch.randn(3, 8, 5, 4).double().contiguous(memory_format=layout) for _ in range(2))
    results = []
    for run, (n, g) in ((_block, (norm, gate)), (_plain, twins)):
        given = [x.clone().requires_grad_() for x in (z, shortcut)]
        for _ in range(2):
            out = run(n, g, *given).relu()
            (out * torch.linspace(-1, 2, out.numel()).double().view_as(out)).sum().backward()
        results.append([out, *(x.grad for x in (*given, *n.parameters(), *g.parameters())), *n.buffers()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("gate", [ECA(4, 3), Spread(4)], ids=["eca", "spread"])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_and_their_gradients(training: bool, gate: ChannelGate, added: bool) -> None:
    """Against finite differences, through a convolution, the batch's statistics, the gate and the add."""
    torch.manual_seed(0)
    conv, gate = nn.Conv2d(2, 4, 1).double(), copy.deepcopy(gate).double()
    norm = nn.BatchNorm2d(4).double().train(training)
    shortcut = torch.randn(2, 4, 3, 1).double() if added else None

    def block(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        name = next(name for name, _ in gate.named_parameters())
        held = ((conv, {"weight": weight}), (norm, {"weight": scale}), (gate, {name: own}))
        with (
            nn.utils.stateless._reparametrize_module(*held[0]),
            nn.utils.stateless._reparametrize_module(*held[1]),
            nn.utils.stateless._reparametrize_module(*held[2]),
        ):
            if gate.pools_mean:
                return _block(norm, gate, x, shortcut, conv=conv)
            return _block(norm, gate, conv(x), shortcut)

    own = next(gate.parameters()).detach()
    given = [torch.randn(2, 2, 3, 1).double(), conv.weight.detach(), torch.rand(4).double() + 0.5, own]
    given = [x.clone().requires_grad_() for x in given]
    assert torch.autograd.gradcheck(block, given)
    assert torch.autograd.gradgradcheck(block, given, atol=1e-4)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", ["batch", "frozen"])
def test_half_precision(name: str, autocast: bool) -> None:
    """As near to single precision as torch's own operations in half are."""
    torch.manual_seed(0)
    norm, gate = _norm(name).float(), ECA(8, 3)
    z, shortcut = torch.randn(4, 8, 6, 6) + 1, torch.randn(4, 8, 6, 6)
    if not autocast:
        norm, gate = norm.bfloat16(), gate.bfloat16()

    def step(run: object, *, half: bool) -> list[torch.Tensor]:
        n, g = copy.deepcopy((norm, gate))
        given = [x.bfloat16() if half else x.bfloat16().float() for x in (z, shortcut)]
        given = [x.requires_grad_() for x in given]
        if not half:
            n, g = n.float(), g.float()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and half):
            out = run(n, g, *given)
        assert out.dtype == (torch.bfloat16 if half else torch.float32)
        out.float().square().sum().backward()
        return [x.grad.float() for x in (*given, *n.parameters(), *g.parameters())]

    exact, ours, theirs = (step(_plain, half=False), step(_block, half=True), step(_plain, half=True))
    for right, our, their in zip(exact, ours, theirs, strict=True):
        bound = 2 * float((their - right).abs().max()) + 0.01 * float(right.abs().max())
        assert float((our - right).abs().max()) <= bound


def test_a_shortcut_in_another_type() -> None:
    torch.manual_seed(0)
    norm, gate = nn.BatchNorm2d(4), ECA(4, 3)
    z, shortcut = torch.randn(2, 4, 3, 3, requires_grad=True), torch.randn(2, 4, 3, 3).double().requires_grad_()
    out = _block(norm, gate, z, shortcut)
    assert out.dtype is torch.float64
    out.square().sum().backward()
    assert (z.grad.dtype, shortcut.grad.dtype) == (torch.float32, torch.float64)
    value = norm(z).detach().requires_grad_()
    scale_and_add(value, torch.ones(2, 4, 1, 1), shortcut).sum().backward()
    assert value.grad is not None
    assert value.grad.dtype is torch.float32


def test_one_value_a_channel_is_refused_as_the_norm_does() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm_and_pool(nn.BatchNorm2d(4), torch.randn(1, 4, 1, 1), ECA(4, 3))


@pytest.mark.parametrize("shape", [(3, 5, 4, 2), (2, 4, 6), (2, 3, 2, 3, 2), (0, 3, 2, 2)])
def test_sums_over_space(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    outer, z = (torch.randn(shape).double() for _ in range(2))
    center, inverse = torch.randn(shape[1]).double(), torch.rand(shape[1]).double() + 0.5
    ones = (1,) * (len(shape) - 2)
    space = tuple(range(2, len(shape)))
    right = outer.sum(space), (outer * (z - center.view(-1, *ones)) * inverse.view(-1, *ones)).sum(space)
    pairs = [(outer, z), (outer, z.transpose(-1, -2).contiguous().transpose(-1, -2)), (outer[:1].expand_as(z), z)]
    if len(shape) == 4:
        pairs.append(tuple(x.contiguous(memory_format=torch.channels_last) for x in (outer, z)))
    for d, x in pairs:
        expected = right if d is not pairs[2][0] else None
        if expected is None:
            expected = d.sum(space), (d * (x - center.view(-1, *ones)) * inverse.view(-1, *ones)).sum(space)
        for ours, theirs in zip(sums_over_space(d, x, center, inverse), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
