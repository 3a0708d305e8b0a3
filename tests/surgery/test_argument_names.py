"""An argument may have any name: also those of what stands in for a call while a model is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import attach, inject
from tests import toys

NAMES = ["mod", "module", "name", "graph", "function", "model", "args", "forward", "m", "value"]


def _scaled(name: str, *, decides: bool) -> nn.Module:
    """A layer and a block with one more argument, of the given name; with `decides` there is no graph."""
    scope: dict[str, Any] = {"nn": nn, "torch": torch, "toys": toys, "decides": decides}
    exec(  # the name is to be written in code
        f"""
class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = toys.conv(16, 16)
    def forward(self, x, {name}):
        return self.conv(x) * {name}

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.scaled = Scaled()
    def forward(self, x, *, {name}):
        out = self.scaled(torch.relu(x), {name}={name})
        if decides and out.max() > 1e9:
            out = out * 2
        return x + out

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block = toys.conv(3, 16), Block()
    def forward(self, x):
        return self.block(self.stem(x), {name}=2.0)
""",
        scope,
    )
    made: nn.Module = scope["Model"]()
    return made.eval()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("make", "decides"), [(inject, False), (attach, False), (attach, True)], ids=["inject", "attach", "own code"]
)
def test_a_block_is_called_with_an_argument_of_that_name(
    name: str, make: Callable[..., nn.Module], decides: bool
) -> None:
    model, x = _scaled(name, decides=decides), torch.rand(2, 3, 8, 8)
    patched = make(model, "se", example_inputs=x, reduction=4, init="identity")
    assert torch.equal(patched(x), model(x))
    assert toys.gates_run(patched, x) == 1
