from __future__ import annotations

import pytest
from torch import nn

from attn_inject.cli.loading import describe, input_size_of
from attn_inject.types import Source


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (Source("timm", "resnet50"), "timm:resnet50, random weights"),
        (Source("file", "net.py:make", {"width": 8}, seed=3), "net.py:make(width=8), random weights, seed 3"),
        (Source("torchvision", "resnet18", pretrained=True), "torchvision:resnet18, pretrained weights"),
        (Source("torchvision", "resnet18", checkpoint="w.pt"), "torchvision:resnet18, weights of w.pt"),
    ],
)
def test_the_first_line_says_what_the_name_became(source: Source, line: str) -> None:
    assert describe(source) == line


@pytest.mark.parametrize(
    ("module", "asked", "size"),
    [
        (nn.Conv2d(1, 4, 3), None, (1, 224, 224)),
        (nn.Conv2d(1, 4, 3), [64], (1, 64, 64)),
        (nn.Conv2d(1, 4, 3), [48, 64], (1, 48, 64)),
        (nn.Conv2d(1, 4, 3), [2, 48, 64], (2, 48, 64)),
        (nn.Conv3d(3, 4, 3), [64], (3, 16, 64, 64)),
        (nn.Conv3d(3, 4, 3), [3, 8, 64, 64], (3, 8, 64, 64)),
        (nn.Conv1d(2, 4, 3), [100], (2, 100)),
        (nn.Conv1d(2, 4, 3), [3, 100], (3, 100)),
        (nn.Linear(2, 4), [7], (7,)),
        (nn.Linear(2, 4), None, None),
    ],
)
def test_the_input_size_is_filled_in_from_the_model(
    module: nn.Module, asked: list[int] | None, size: tuple[int, ...] | None
) -> None:
    assert input_size_of(asked, nn.Sequential(module), Source("object", "Net")) == size
