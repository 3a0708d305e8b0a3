"""Functions with a backward of their own beside the attention: a block that recomputes itself, as RevNet's do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import attach, attention_parameters, inject

from .. import toys

SIZE = (16, 8, 8)


class Recomputed(torch.autograd.Function):
    """x + body(x), of which the backward asks for the gradients of all the body's weights, wanted or not."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, body: nn.Module, *_weights: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.body = body
        with torch.no_grad():
            return x + body(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            out = x + ctx.body(x)
        of_x, *of_weights = torch.autograd.grad(out, (x, *ctx.body.parameters()), grad)
        return of_x, None, *of_weights


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = toys.Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))
        self.body = nn.Sequential(toys.conv(16, 16), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = Recomputed.apply(self.block(x), self.body, *self.body.parameters())
        return out


@pytest.mark.parametrize("put", [inject, attach])
def test_what_the_gradient_has_to_come_through_may_ask_for_that_of_its_own_weights(put: Any) -> None:
    patched = put(Net(), "se", input_size=SIZE, reduction=4)
    assert [insertion.site.block for insertion in patched.injection.plan.insertions] == ["block"]
    patched(torch.randn(2, *SIZE)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in attention_parameters(patched))
    # The flags are as they were.
    assert all(parameter.requires_grad for parameter in patched.parameters())


class Mixed(torch.autograd.Function):
    """Two branches by random weights, other ones in the backward pass, as in Shake-Shake."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return 0.25 * a + 0.75 * b

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return 0.5 * grad, 0.5 * grad


class Shaken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = (nn.Sequential(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16)) for _ in range(2))
        self.mix = Mixed.apply

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = self.one(x), self.other(x)
        return x + (self.mix(one, other) if self.training else 0.5 * (one + other))


@pytest.mark.parametrize("put", [inject, attach])
def test_a_function_of_somebodys_own_may_make_the_branch(put: Any) -> None:
    patched = put(nn.Sequential(Shaken(), Shaken()), "se", input_size=SIZE, reduction=4)
    x = torch.randn(2, *SIZE)
    assert toys.gates_run(patched.train(), x) == toys.gates_run(patched.eval(), x) == 2


class Rounded(nn.Module):
    """Lets gradients through what it rounds when it is trained, as a codebook does."""

    def __init__(self) -> None:
        super().__init__()
        self.block = toys.Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))
        self.after = toys.Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(x)
        rounded = x.detach().round()
        return self.after(x + (rounded - x).detach() if self.training else rounded)


@pytest.mark.parametrize("put", [inject, attach])
def test_what_gradients_come_through_in_train_mode_alone_learns(put: Any) -> None:
    patched = put(Rounded(), "se", input_size=SIZE, reduction=4)
    checks = {check.name: check.figure for check in patched.injection.verification.checks}
    assert checks["gradients"].endswith(", in train mode alone")
