"""R16 and R9b: maps that a condition scales and shifts, and states that a loop refines, end no block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_inject import find_sites
from tests.toys import Residual


class Modulated(nn.Module):
    """A norm whose scale and shift are convolutions of a condition (Park et al. 2019, https://arxiv.org/abs/1903.07291)."""

    def __init__(self, put: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.norm, self.shared = nn.InstanceNorm2d(8), nn.Conv2d(4, 8, 3, padding=1)
        self.scale, self.shift = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.put = put

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.shared(F.interpolate(condition, size=x.shape[2:])))
        return self.put(self.norm(x), self.scale(hidden), self.shift(hidden))


class Generator(nn.Module):
    def __init__(self, put: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.stem, self.modulated, self.conv = (
            nn.Conv2d(3, 8, 3, padding=1),
            Modulated(put),
            nn.Conv2d(8, 8, 3, padding=1),
        )

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return x + self.conv(torch.relu(self.modulated(x, condition)))


PUT: dict[str, Callable[..., torch.Tensor]] = {
    "as the paper": lambda x, scale, shift: x * (1 + scale) + shift,
    "shift first": lambda x, scale, shift: shift + scale * x,
    "one after the other": lambda x, scale, shift: x + x * scale + shift,
    "at once": lambda x, scale, shift: torch.addcmul(shift, x, 1 + scale),
}


@pytest.mark.parametrize("put", PUT)
def test_what_a_condition_scales_and_shifts_is_no_block(put: str) -> None:
    inputs = torch.randn(1, 3, 16, 16), torch.randn(1, 4, 8, 8)
    sites = find_sites(Generator(PUT[put]), example_inputs=inputs)
    assert [site.block for site in sites] == [""]
    assert {skipped.block for skipped in sites.skipped} == {"modulated"}


def test_a_branch_that_a_condition_gates_is_one() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.project, self.gate = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(4, 8, 1)
            self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))

        def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.project(x) + self.branch(x) * torch.sigmoid(self.gate(condition))

    inputs = torch.randn(1, 3, 16, 16), torch.randn(1, 4, 16, 16)
    assert len(find_sites(Gated(), example_inputs=inputs)) == 1


class Refining(nn.Module):
    def __init__(self, start: Callable[[torch.Tensor], torch.Tensor], *, detaches: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            Residual(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)),
        )
        self.update = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.start, self.detaches = start, detaches

    def forward(self, x: torch.Tensor) -> Any:
        maps = self.stem(x)
        state, states = self.start(maps), []
        for _ in range(4):
            if self.detaches:
                state = state.detach()
            state = state + self.update(torch.cat([maps, state], 1))
            states.append(state)
        return states


@pytest.mark.parametrize("detaches", [False, True])
def test_a_state_that_a_loop_refines_from_nothing_is_no_block(detaches: bool) -> None:
    sites = find_sites(Refining(lambda maps: maps.new_zeros(maps.shape), detaches=detaches), input_size=16)
    assert [site.block for site in sites] == ["stem.1"]
    assert sum("the loop refines a state: R9" in skipped.reason for skipped in sites.skipped) == 3


def test_from_a_map_on_the_turns_of_a_loop_are_blocks() -> None:
    assert [site.block for site in find_sites(Refining(lambda maps: maps), input_size=16)] == ["stem.1", "", "", "", ""]
