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


class Decoder(nn.Module):
    """Blocks whose norms the latent scales and shifts that their maps are made from (MoVQ, CogVideoX)."""

    def __init__(self, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.stem, self.norms = nn.Conv2d(4, 8, 3, padding=1), nn.ModuleList(norm() for _ in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        x = self.stem(latent)
        for first in (0, 2):
            branch = x
            for norm, conv in zip(self.norms[first : first + 2], self.convs[first : first + 2], strict=True):
                branch = conv(torch.relu(norm(branch, latent)))
            x = F.interpolate(x + branch, scale_factor=2.0)
        return x


class SpatialNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.scale, self.shift = nn.GroupNorm(4, 8), nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        latent = F.interpolate(latent, size=x.shape[2:])
        return self.norm(x) * self.scale(latent) + self.shift(latent)


class AtItsSize(SpatialNorm):
    def forward(self, x: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        return super().forward(x, latent) if x.shape[2:] != latent.shape[2:] else self.plain(x, latent)

    def plain(self, x: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        return self.norm(x) * self.scale(latent) + self.shift(latent)


class InOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.both = nn.GroupNorm(4, 8), nn.Conv2d(4, 16, 1)

    def forward(self, x: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        scale, shift = self.both(F.interpolate(latent, size=x.shape[2:])).chunk(2, dim=1)
        normed: torch.Tensor = self.norm(x)
        return normed * (1 + scale) + shift


@pytest.mark.parametrize("norm", [SpatialNorm, AtItsSize, InOne])
def test_what_a_condition_scales_and_shifts_is_no_block_though_it_was_made_from_it(
    norm: Callable[[], nn.Module],
) -> None:
    sites = find_sites(Decoder(norm), example_inputs=torch.randn(1, 4, 8, 8))
    assert [site.block for site in sites] == ["", ""]
    assert [skipped.block for skipped in sites.skipped if "R16" in skipped.reason] == [f"norms.{i}" for i in range(4)]


class Scaled(nn.Module):
    """A residual block whose branch is scaled by convolutions of its input; one module may do the sum."""

    def __init__(self, put: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.project, self.gate = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.body = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
        )
        self.put = put

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.put(self.project(x), self.body(x), self.gate(x))


class Sum(nn.Module):
    def forward(self, x: torch.Tensor, branch: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return x + branch * gate


class Product(nn.Module):
    def forward(self, branch: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return branch * gate


class SumOfProduct(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.product = Product()

    def forward(self, x: torch.Tensor, branch: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.product(branch, gate)
        return out


SCALED: dict[str, Callable[[], Callable[..., torch.Tensor]]] = {
    "here": lambda: lambda x, branch, gate: x + branch * gate,
    "by one more": lambda: lambda x, branch, gate: x + branch * (1 + gate),
    "by a module": Sum,
    "by two modules": SumOfProduct,
    "by a pooled gate": lambda: lambda x, branch, gate: x + branch * F.adaptive_avg_pool2d(gate, 1),
    "by a mask": lambda: lambda x, branch, gate: x + branch * torch.sigmoid(gate),
}


@pytest.mark.parametrize("how", SCALED)
def test_a_branch_that_its_own_block_scales_is_one(how: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Scaled(SCALED[how]()), Scaled(SCALED[how]()))
    sites = find_sites(model, input_size=16)
    assert len(sites) == 2, sites.skipped


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
