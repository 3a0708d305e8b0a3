"""What a model's code keeps of its last run does not decide what an export of it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from attn_inject import attach, save
from attn_inject.saving.forgetting import without_last_run
from attn_inject.tracing.inputs import Inputs

from ..toys import Lambda, Toy, conv

SIZE = (3, 16, 16)
IMAGES = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))


class Gridded(nn.Module):
    """Adds positions to its maps, from a grid that it makes anew where another shape comes, as detectors do."""

    shape: Any = None
    grid: Any = None
    scale = 1.0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        block = Lambda(lambda m, x: x + m.b(torch.relu(m.a(x))), a=conv(16, 16), b=conv(16, 16))
        self.stem, self.block = conv(3, 16), block
        # What is no memory stays as it is, though the class has another value.
        self.scale = 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.block(self.stem(x))
        if self.shape != y.shape:
            self.grid = torch.arange(y.shape[-1], dtype=y.dtype, device=y.device)
            self.shape = y.shape
        scaled: torch.Tensor = y * self.scale + self.grid
        return scaled


class Counting(Gridded):
    """What it gives hangs on how often it ran: not what may be forgotten."""

    runs = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs = self.runs + 1
        return super().forward(x) + self.runs


def _attached(model: nn.Module) -> Any:
    return attach(model.eval(), "se", reduction=4, input_size=SIZE).eval()


def test_what_ran_before_is_exported_for_any_batch(tmp_path: Path) -> None:
    attached = _attached(Gridded())
    attached(IMAGES)
    shape, grid = attached.shape, attached.grid
    save(attached, tmp_path / "net.pt2")
    exported = torch.export.load(tmp_path / "net.pt2").module()
    for images in (IMAGES, IMAGES[:1], IMAGES.repeat(2, 1, 1, 1)):
        assert torch.allclose(exported(images), attached(images), atol=1e-5)
    attached(IMAGES)
    assert shape == attached.shape
    assert grid is not None


def test_what_is_forgotten_is_what_runs_change() -> None:
    attached = _attached(Gridded())
    attached(IMAGES)
    forgotten: Any = without_last_run(attached, Inputs((IMAGES,)))
    assert (forgotten.shape, forgotten.grid, forgotten.scale) == (None, None, 2.0)
    # The caller's model keeps what it had.
    assert tuple(attached.shape) == (2, 16, 16, 16)
    assert attached.grid is not None


def test_what_hangs_on_earlier_runs_is_not_forgotten() -> None:
    counting = Counting().eval()
    for _ in range(3):
        counting(IMAGES)
    assert without_last_run(counting, Inputs((IMAGES,))) is None


def test_where_there_is_nothing_to_forget() -> None:
    assert without_last_run(Toy(conv(16, 16)).eval(), Inputs((IMAGES,))) is None
