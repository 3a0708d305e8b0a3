"""Real images that need no download: scikit-learn's digits, and a small residual network that learns them in seconds.

    python -m tests.studying.digits FILE

trains one with SE and saves it; `attn-inject gates FILE --data tests/studying/digits.py:held --trust-source` looks at
it, as README shows.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from attn_inject import inject, save
from attn_inject.types import Source

TRAINED_ON = 1200
SIZE = (1, 8, 8)


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """(1797, 1, 8, 8) between -1 and 1, and their digits, in an order drawn once."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(digits.images, dtype=torch.float32)[order, None] / 8 - 1, torch.tensor(digits.target)[order]


def held() -> DataLoader[Any]:
    """What no training has seen."""
    x, y = images()
    return DataLoader(TensorDataset(x[TRAINED_ON:], y[TRAINED_ON:]), batch_size=100)


class Block(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, o // i, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.down = nn.Conv2d(i, o, 1, o // i, bias=False) if i != o else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.down(x))


class Net(nn.Module):
    """Three stages of two blocks, 16, 32 and 64 channels wide."""

    def __init__(self, width: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        for stage in range(3):
            wide, before = width << stage, width << max(0, stage - 1)
            stack = [Block(before, wide), *(Block(wide, wide) for _ in range(blocks - 1))]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*stack))
        self.head = nn.Linear(width << 2, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer3(self.layer2(self.layer1(torch.relu(self.stem(x))))).mean((2, 3)))


def train(model: nn.Module, epochs: int, seed: int = 0) -> nn.Module:
    """Train on the part that `held` leaves; the model itself, in eval mode."""
    x, y = images()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(TRAINED_ON, generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
    return model.eval()


if __name__ == "__main__":
    torch.manual_seed(0)
    made = inject(Net(), "se", reduction=4, input_size=SIZE, source=Source("file", "tests/studying/digits.py:Net"))
    save(train(made, 12), sys.argv[1])
