"""Blocks in the branches of `torch.cond`, of which a run takes one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attn_inject import TraceError, attach, find_sites, inject, report

from .. import toys

SIZE = (16, 8, 8)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bright, self.dark = (toys.Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.cond(x.mean() > 0.5, lambda y: self.bright(y), lambda y: self.dark(y), (x,))
        return out


def test_both_branches_are_read_and_gated() -> None:
    model, x = Branching().eval(), torch.rand(2, *SIZE)
    sites = find_sites(model, input_size=SIZE)
    assert [site.block for site in sites] == ["bright", "dark"]
    assert sites.skipped == ()
    with pytest.raises(TraceError, match=r"stopped at .*torch\.cond.*attach\(\) needs no graph"):
        inject(model, "se", input_size=SIZE)
    same = attach(model, "se", input_size=SIZE, reduction=4, init="identity").eval()
    gated = attach(model, "se", input_size=SIZE, reduction=4).eval()
    with torch.no_grad():
        for image, block in ((x + 1, "bright"), (x - 1, "dark")):
            assert torch.equal(same(image), model(image))
            assert torch.equal(gated(image), gated.get_submodule(block)(image))
            assert not torch.equal(gated(image), model(image))
            with torch.compiler.set_stance("force_eager"):
                assert toys.gates_run(gated, image) == 1


def test_what_it_costs_is_that_of_the_branch_that_one_run_takes() -> None:
    model = Branching().eval()
    attached = attach(model, "se", input_size=SIZE, reduction=4).eval()
    told = report(model, attached, bench=False)
    # One of two gates: two layers, of 16 to 4 channels and back.
    assert told.total("MACs").difference == 2 * 16 * 4
    assert sorted(row.added.macs for row in told.sites) == [0, 2 * 16 * 4]
    assert any("counted on one run" in note for note in told.notes)
