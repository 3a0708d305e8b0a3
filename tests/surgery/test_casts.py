"""Branches that are cast before they are added up: the gate stands where maps have the type of its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import attach, inject
from attn_inject.errors import RewriteError

from ..toys import conv, gates_run

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))

CASTS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "float": lambda y, x: y.float(),
    "to": lambda y, x: y.to(x.dtype),
    "type_as": lambda y, x: y.type_as(x),
    "double": lambda y, x: y.double(),
}


class _Wide(nn.Module):
    """A residual stream in float32 around layers of the weights' type."""

    def __init__(self, cast: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 16), conv(16, 16), conv(16, 16)
        self.cast = cast

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kind = self.stem.weight.dtype
        x = self.stem(x.to(kind)).float()
        return x + self.cast(self.b(torch.relu(self.a(x.to(kind)))), x)


@pytest.mark.parametrize("make", [inject, attach])
@pytest.mark.parametrize("cast", CASTS)
def test_the_gate_stands_before_the_cast(cast: str, make: Any) -> None:
    torch.manual_seed(0)
    model = _Wide(CASTS[cast]).bfloat16()
    patched = make(model, "se", reduction=4, init="identity", example_inputs=IMAGE)
    assert [insertion.site.node for insertion in patched.injection.plan.insertions] == ["b"]
    assert torch.equal(patched(IMAGE), model(IMAGE))
    assert gates_run(patched, IMAGE) == 1


@pytest.mark.parametrize("make", [inject, attach])
def test_what_no_gate_can_work_on_is_refused(make: Any) -> None:
    model = _Wide(lambda y, x: torch.relu(y.float())).bfloat16()
    with pytest.raises(RewriteError, match="where the model's own code runs"):
        make(model, "se", reduction=4, example_inputs=IMAGE)
