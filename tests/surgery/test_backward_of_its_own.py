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
