"""Graphs of exported programs: operators of torch in the place of its functions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attn_inject import attach, find_sites, inject, optimize

from ..toys import conv, gates_run

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


_COPIED = pytest.mark.skipif(
    torch.__version__.startswith("2.6"), reason="torch 2.6 cannot copy what its unflatten() makes"
)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.drop = conv(8, 8), nn.BatchNorm2d(8), conv(8, 8), nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop(self.b(self.norm(self.a(x)).relu_()))


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool, self.first, self.second = conv(3, 8), nn.MaxPool2d(2), _Block(), _Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(self.pool(self.stem(x)))).mean((2, 3))


def _net() -> nn.Module:
    torch.manual_seed(0)
    return _Net().eval()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["module", "decomposed", pytest.param("unflattened", marks=_COPIED)])
def test_blocks_of_exported_programs_are_found(form: str) -> None:
    net = _net()
    program = torch.export.export(net, (IMAGE,))
    made = {
        "module": program.module,
        "decomposed": lambda: program.run_decompositions().module(),
        "unflattened": lambda: torch.export.unflatten(program),
    }[form]()
    sites = find_sites(made, example_inputs=IMAGE)
    # Only what was unflattened has blocks.
    assert [site.block for site in sites] == (["first", "second"] if form == "unflattened" else ["", ""])
    assert [site.channels for site in sites] == [8, 8]
    for make in (inject, attach):
        patched = make(made, "se", reduction=2, init="identity", example_inputs=IMAGE)
        assert torch.equal(patched(IMAGE), made(IMAGE))
        assert gates_run(patched, IMAGE) == 2
        torch.testing.assert_close(optimize(patched)(IMAGE), net(IMAGE), atol=1e-5, rtol=1e-4)
