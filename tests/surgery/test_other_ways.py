"""Blocks whose code may go past the attention: at another size, by the data, in another mode."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import GuardError, attach, detach

from ..toys import conv, gates_run


def branch() -> nn.Module:
    return nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16))


class Choosing(nn.Module):
    """A residual block of two branches, of which one runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other = branch(), branch()

    def takes_other(self, x: torch.Tensor) -> Any:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (self.other(x) if self.takes_other(x) else self.first(x))


class BySize(Choosing):
    def takes_other(self, x: torch.Tensor) -> Any:
        return x.shape[-1] > 16


class ByData(Choosing):
    def takes_other(self, x: torch.Tensor) -> Any:
        return x.mean() > 100


class ByMode(Choosing):
    def takes_other(self, x: torch.Tensor) -> Any:
        return self.training


class Expert(Choosing):
    """The branches lie in a list, which has no forward."""

    def __init__(self) -> None:
        super().__init__()
        del self.first, self.other
        self.branches = nn.ModuleList([branch(), branch()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branches[int(x.mean().item() > 100)](x)


class Net(nn.Module):
    def __init__(self, block: type[nn.Module], *, free: bool) -> None:
        super().__init__()
        self.stem, self.blocks, self.free = nn.Conv2d(3, 16, 1), nn.Sequential(block(), block()), free

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.blocks(self.stem(x))
        return -y if self.free and y.max() < -1e9 else y


def _shifted(size: int = 8) -> torch.Tensor:
    return torch.full((2, 3, size, size), 1e6)


CASES = {
    "by size": (BySize, False, torch.randn(2, 3, 32, 32)),
    "by size, without a graph": (BySize, True, torch.randn(2, 3, 32, 32)),
    "by the data": (ByData, True, _shifted()),
    "by the data, in a list": (Expert, True, _shifted()),
}


@pytest.mark.parametrize(("block", "free", "elsewhere"), CASES.values(), ids=CASES)
def test_a_run_past_the_attention_is_refused(block: type[nn.Module], free: bool, elsewhere: torch.Tensor) -> None:
    torch.manual_seed(0)
    model, x = Net(block, free=free).eval(), torch.randn(2, 3, 8, 8)
    nn.init.ones_(model.stem.weight)
    attached = attach(model, "se", reduction=4, example_inputs=x)
    assert gates_run(attached, x) == 2
    said = [reason for reason in attached.injection.not_kept if "which did not run where it was read" in reason]
    assert len(said) == 2
    for made in (attached, copy.deepcopy(attached), pickle.loads(pickle.dumps(attached))):
        words = r"^this \w+ ran [a-z.1]+ without its attention 'se': .*exclude=\)$"
        with torch.no_grad(), pytest.raises(GuardError, match=words):
            made(elsewhere)
        assert not [hook for module in made.modules() for hook in module._forward_hooks]
        with torch.no_grad():
            assert gates_run(made, x) == 2
    bare = detach(attached)
    assert torch.equal(bare(elsewhere), model(elsewhere))


def test_a_mode_that_goes_elsewhere_is_told_and_refused() -> None:
    model, x = Net(ByMode, free=True).eval(), torch.randn(2, 3, 8, 8)
    attached = attach(model, "se", reduction=4, example_inputs=x)
    said = "in train mode this ByMode ran other without its attention"
    assert any(said in each for each in attached.injection.not_kept)
    assert gates_run(attached, x) == 2
    with pytest.raises(GuardError):
        attached.train()(x)


class Skipping(nn.Module):
    """Stochastic depth as code: the branch is left out by chance, and its shortcut's norm is not."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.body, self.rate = nn.BatchNorm2d(16), branch(), 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        if torch.rand(()).item() < self.rate:
            return x
        return x + self.body(x)


def test_a_branch_that_is_left_out_needs_no_attention() -> None:
    model, x = Net(Skipping, free=True).eval(), torch.randn(2, 3, 8, 8)
    attached = attach(model, "se", reduction=4, example_inputs=x)
    assert gates_run(attached, x) == 2
    attached.blocks[0].rate = 1.0
    assert gates_run(attached, x) == 1
    assert not any("did not run where it was read" in each for each in attached.injection.not_kept)


class Frames(nn.Module):
    """Goes over the images of a sequence, in the forward that adds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.step = conv(3, 16), branch()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x[:, 0])
        for index in range(1, x.shape[1]):
            y = y + self.step(y + self.stem(x[:, index]))
        return y


def test_a_forward_that_holds_for_one_length_says_how_it_comes_to_hold_for_another() -> None:
    attached = attach(Frames(), "se", reduction=4, example_inputs=torch.randn(2, 3, 3, 8, 8))
    attached(torch.randn(2, 3, 3, 8, 8))
    words = (
        r"range\(1, x.shape\[1\]\):` came to .*: detach.. it, and attach again with example_inputs that lead to this$"
    )
    with pytest.raises(GuardError, match=words):
        attached(torch.randn(2, 4, 3, 8, 8))
