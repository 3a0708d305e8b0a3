"""With init="identity" every attention gives its input back to the bit at the start, and all its parameters learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject.attention.gating import ZeroMix
from attn_inject.attention.registry import build

from .idle import is_idle
from .plain import GATED, MAPS
from .written import CASES, ONE_SIZE

# Name and options, and after how many steps all learn: a scalar or a last layer that starts at zero goes first.
STARTS: dict[str, tuple[str, Mapping[str, Any], int]] = {
    **{name: (name, case.small, case.steps) for name, case in MAPS.items()},
    **{case: (name, options, 2) for case, (name, options) in CASES.items()},
}


@pytest.mark.parametrize(
    ("case", "ndim"),
    [(case, ndim) for case in STARTS for ndim in (1, 2, 3) if ndim == 2 or case not in ONE_SIZE],
)
def test_the_start_is_exact_and_every_parameter_learns(case: str, ndim: int) -> None:
    name, options, steps = STARTS[case]
    torch.manual_seed(0)
    # In float64: what rounding alone moves must not look as if it learned.
    module = build(name, 32, ndim=ndim, init="identity", options=options).double()
    x = torch.randn(2, 32, *(9, 7, 5)[:ndim]).double()
    assert torch.equal(module.eval()(x), x)
    assert torch.equal(module.train()(x), x)
    optimizer = torch.optim.SGD(module.parameters(), 0.5)
    target = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    for _ in range(steps):
        optimizer.zero_grad()
        (module(x) * target).sum().backward()
        optimizer.step()
    still = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-9]
    assert still == [n for n, _ in module.named_parameters() if is_idle(name, n)]


@pytest.mark.parametrize("name", sorted(MAPS))
def test_what_has_no_gate_that_could_start_at_one_is_mixed_in(name: str) -> None:
    assert isinstance(build(name, 32, init="identity", options=MAPS[name].small), ZeroMix) == (name not in GATED)


class Scale(nn.Module):
    """The identity at first, by itself: a layer scale that starts at one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.drop(self.weight)


class Picky(nn.Module):
    """Runs on one channel count alone, and never on a small map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[2] > 6
        return x + nn.functional.pad(self.conv(x), (3, 3, 3, 3))


@pytest.mark.parametrize(("kind", "mix"), [(Scale, 1.0), (nn.Conv2d, None), (Picky, 0.0), (nn.Identity, 1.0)])
def test_what_is_the_identity_by_itself_starts_whole_and_learns(kind: Any, mix: float | None) -> None:
    if mix is None:
        made = build(lambda channels: nn.Conv2d(channels, channels, 1), 8, init="identity")
        assert float(made.mix) == 0.0
        return
    torch.manual_seed(0)
    state = torch.get_rng_state()
    made = build(kind, 8, init="identity")
    if kind is not Picky:
        assert torch.equal(torch.get_rng_state(), state)
    assert float(made.mix) == mix
    assert all(module.training for module in made.modules())
    x = torch.randn(2, 8, 9, 7)
    assert torch.equal(made.eval()(x), x)
    (made(x) ** 3).sum().backward()
    learns = [name for name, p in made.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert learns == {Scale: ["inner.weight"], Picky: ["mix"], nn.Identity: []}[kind]


def test_on_the_meta_device_nothing_is_told() -> None:
    with torch.device("meta"):
        made = build(Scale, 8, init="identity")
    assert made.mix.is_meta
