"""What is seen, and said, of attention that was attached by a recording: there is no graph to hold it against."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from attn_inject import attach

from ..toys import Residual, conv, gates_run

SIZE = (3, 16, 16)
IMAGE = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two blocks; what is between them, and what comes after, is the test's."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor], after: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = conv(3, 16)
        self.first, self.second = (Residual(conv(16, 16), nn.ReLU(), conv(16, 16)) for _ in range(2))
        self.between, self.after = between, after

    def forward(self, x: torch.Tensor) -> Any:
        x = self.first(self.stem(x))
        x = x * 2 if x.mean() < -1e9 else x
        return self.after(self.second(self.between(x)))


def _attached(between: Callable[[torch.Tensor], torch.Tensor], after: Callable[[torch.Tensor], Any]) -> Any:
    return attach(Net(between, after).eval(), "se", reduction=4, input_size=SIZE).eval()


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


@pytest.mark.parametrize(
    ("between", "after", "said"),
    [
        (_same, _same, []),
        (_same, lambda x: SimpleNamespace(maps=[x]), []),
        (torch.detach, _same, ["none comes to first from what it gives in eval mode"]),
        (_same, lambda x: x.argmax(1), ["what it gives in eval mode has no gradient"]),
        (_same, lambda x: {"boxes": x.detach().numpy()}, ["what it gives in eval mode has no gradient"]),
        (
            _same,
            lambda x: x.numpy(),
            ["no backward pass runs in eval mode (Can't call numpy() on Tensor that requires grad. Use tensor.detach()"
             ".numpy() instead.)"],
        ),
    ],
)  # fmt: skip
def test_what_is_not_known_of_the_gradients_is_said(
    between: Callable[[torch.Tensor], torch.Tensor], after: Callable[[torch.Tensor], Any], said: list[str]
) -> None:
    attached = _attached(between, after)
    told = [line for line in attached.injection.not_kept if line.startswith("a proof that the new modules learn: ")]
    assert told == [f"a proof that the new modules learn: {line}" for line in said]
    assert gates_run(attached, IMAGE) == 2


class Checkpointed(Net):
    """Its blocks run again in the backward pass."""

    def forward(self, x: torch.Tensor) -> Any:
        x = checkpoint(self.first, self.stem(x), use_reentrant=True)
        x = x * 2 if x.mean() < -1e9 else x
        return checkpoint(self.second, x, use_reentrant=True)


def test_what_a_backward_pass_runs_again_learns() -> None:
    attached: Any = attach(Checkpointed(_same, _same).eval(), "se", reduction=4, input_size=SIZE)
    assert attached.injection.not_kept == ()
    assert gates_run(attached, IMAGE, gradients=True) == 2


def _new_numbers(x: torch.Tensor) -> torch.Tensor:
    """Draws from a generator that nobody can bring back."""
    return x * random.SystemRandom().random()


class Trained(Net):
    def forward(self, x: torch.Tensor) -> Any:
        return _new_numbers(super().forward(x)) if self.training else super().forward(x)


COUNTED = 0


class Counting(Net):
    def forward(self, x: torch.Tensor) -> Any:
        global COUNTED  # what no run of ours can take back
        COUNTED += 1
        return super().forward(x) * COUNTED


def test_what_is_never_the_same_is_not_compared() -> None:
    attached: Any = attach(Trained(_same, _same).eval(), "se", reduction=4, input_size=SIZE)
    assert attached.injection.not_kept == (
        "a comparison with what inject gives: in train mode its own code gives something else each time",
    )
    attached = attach(Counting(_same, _same).eval(), "se", reduction=4, input_size=SIZE)
    assert "a comparison with what inject gives: its own code gives something else each time" in (
        attached.injection.not_kept
    )
    assert gates_run(attached, IMAGE) == 2


@pytest.mark.parametrize(
    ("after", "figure"),
    [
        (_same, "2 modules run as planned in eval mode; train equal to the bit"),
        (lambda x: [float(x.mean())], "2 modules run as planned in eval mode (it gives no tensors to compare)"),
    ],
)
def test_what_could_not_be_compared_is_said(after: Callable[[torch.Tensor], Any], figure: str) -> None:
    attached = _attached(_same, after)
    (check,) = attached.injection.verification.checks
    assert (check.name, check.passed, check.figure) == ("calls", True, figure)
    assert gates_run(attached, IMAGE) == 2
