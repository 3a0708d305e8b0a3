"""Models whose code draws which of their blocks run: what one run shows, and what it does not."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attn_inject import CheckpointError, attach, load, save

from .. import toys


def test_blocks_that_the_one_run_did_not_choose_are_named(tmp_path: Path) -> None:
    class Supernet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 1)
            self.layers = nn.ModuleList(
                nn.ModuleList(toys.Block(toys.SPELLINGS["+"]) for _ in range(2)) for _ in range(2)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            for choices in self.layers:
                x = choices[random.randrange(2)](x)
            return x

    random.seed(1)
    attached: Any = attach(Supernet(), "se", input_size=16)
    taken = {one.site.block for one in attached.injection.plan.insertions}
    left = sorted({f"layers.{layer}.{choice}" for layer in range(2) for choice in range(2)} - taken)
    assert len(left) == 2
    assert f"without attention, since they did not run in that run: {', '.join(left)}" in attached.injection.plan.notes
    save(attached, tmp_path / "supernet.pt")
    outcomes = set()
    for seed in range(12):
        random.seed(seed)
        try:
            load(tmp_path / "supernet.pt", Supernet(), form="module")
            outcomes.add("loaded")
        except CheckpointError as error:
            assert "the model has no residual site 0 in block layers." in str(error)
            outcomes.add("refused")
    assert outcomes == {"loaded", "refused"}
