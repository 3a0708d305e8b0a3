"""Small networks that train in a second, for the recipes' scripts to build from this file."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class Block(nn.Module):
    """A basic block."""

    def __init__(self, width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), norm(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), norm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(x + out)


class Net(nn.Module):
    """A stem, two blocks, a classifier."""

    def __init__(self, norm: Callable[[int], nn.Module], width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 5, 4, 2, bias=False), norm(width), nn.ReLU())
        self.blocks = nn.Sequential(Block(width, norm), nn.Dropout(0.1), Block(width, norm))
        self.fc = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def batch_normed() -> nn.Module:
    return Net(nn.BatchNorm2d)


def group_normed() -> nn.Module:
    """Without dropout, and norms that see one image: as many processes as one likes compute the same."""
    net = Net(lambda width: nn.GroupNorm(4, width))
    net.blocks[1] = nn.Identity()
    return net


def of_five_classes() -> nn.Module:
    return Net(nn.BatchNorm2d, classes=5)


def of_two_classes() -> nn.Module:
    return Net(nn.BatchNorm2d, classes=2)
