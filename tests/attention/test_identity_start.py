"""With init="identity" every attention gives its input back to the bit at the start, and all its parameters learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

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
