"""A network of three parts, each of which can be patched by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .toys import conv


class Part(nn.Module):
    """A stem, one residual block, and what the model around it may ask of it."""

    levels = 1

    def __init__(self, channels: int, width: int = 16) -> None:
        super().__init__()
        self.stem = conv(channels, width)
        self.body = nn.Sequential(conv(width, width), nn.BatchNorm2d(width), nn.ReLU(), conv(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return x + self.body(x)


class Parted(nn.Module):
    """encoder, inner.decoder, and a head that is no part of either."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Part(3)
        self.inner: Any = nn.Module()
        self.inner.decoder = Part(16)
        self.inner.last = Part(16)
        self.head = conv(16, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner.decoder(self.encoder(x))
        made: torch.Tensor = self.head(self.inner.last(x))
        return made


SCOPES = ("encoder", "inner.decoder", "inner.last")
ATTENTIONS = ("se", "eca", "se")


def parted() -> nn.Module:
    """The network in eval mode, with norms that are none of a fresh one."""
    torch.manual_seed(0)
    model = Parted()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()
