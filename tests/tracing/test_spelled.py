"""Spellings that a graph's code must not change: powers of negative numbers, questions to the text of a
type, and scripted functions."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import attach, inject, load, save

from .. import toys

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)

    @torch.jit.script
    def swish(x: torch.Tensor, slope: float = 1.0) -> torch.Tensor:
        return x * torch.sigmoid(slope * x)


SCRIPTED = {"swish": swish}
SPELLINGS: dict[str, Any] = {
    "buffer": lambda m, y: y * ((-1) ** m.steps)[None, :, None, None],
    "float": lambda m, y: y * ((-2.0) ** m.steps)[None, :, None, None],
    "data": lambda _m, y: y * ((-2) ** y.mean((2, 3)).round().abs())[:, :, None, None],
    "size": lambda _m, y: y * (-1) ** (y.shape[1] + 1),
    "negated": lambda m, y: y * ((-m.steps) ** 2)[None, :, None, None],
    "type in": lambda _m, y: y * 2 if "Half" in y.type() else y * 3,
    "scripted": lambda _m, y: swish(y, slope=2.0),
    "scripted in a table": lambda _m, y: SCRIPTED["swish"](y),
    "type is": lambda _m, y: y * 2 if y.type() == "torch.FloatTensor" else y * 3,
}


class Net(nn.Module):
    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.a, self.b = toys.conv(16, 16), toys.conv(16, 16)
        self.spelling = SPELLINGS[spelling]
        self.steps: torch.Tensor
        self.register_buffer("steps", torch.arange(16), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.spelling(self, x + self.b(self.a(x).relu()))


@pytest.mark.parametrize("put", [inject, attach])
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.slow
def test_the_code_is_the_models(spelling: str, put: Any, tmp_path: Any) -> None:
    """The code that runs, not only the graph: the gate lets all through, so that the outputs are the model's."""
    x = torch.randn(2, 16, 8, 8)
    model = Net(spelling).eval()
    # Not by init="identity", which would compare them itself.
    patched = put(model, "se", example_inputs=x, reduction=4, copy=True).eval()
    (insertion,) = patched.injection.plan.insertions
    gate = patched.get_submodule(insertion.module)
    with torch.no_grad():
        gate.fc2.weight.zero_()
        gate.scale = 2.0
    assert torch.equal(patched(x), model(x))
    # A file holds what the plan makes, and `save` compares.
    gate.scale = 1.0
    save(patched, tmp_path / "net.pt")
    gate.scale = 2.0
    loaded: Any = load(tmp_path / "net.pt", Net(spelling)).eval()
    loaded.get_submodule(insertion.module).scale = 2.0
    assert torch.equal(loaded(x), model(x))
    assert toys.gates_run(patched, x) == toys.gates_run(loaded, x) == 1
