"""A network whose gates are known: its branch and its shortcut pass the image on, and the gate's map is planted."""

from __future__ import annotations

import torch
from torch import nn

from attn_inject import attach, inject

CHANNELS = 4
# What the channels' gates do: tell classes apart, stay, stay shut, move whatever the class.
SELECTIVE, CONSTANT, SHUT, MOVING = range(CHANNELS)


class Gate(nn.Module):
    """w = sigmoid(W y + b), y the means over space: a gate of somebody's own."""

    def __init__(self, channels: int, *, in_place: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, channels)
        self.in_place = in_place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.sigmoid(self.fc(x.mean((2, 3))))[:, :, None, None]
        return x.mul_(weights) if self.in_place else x * weights


class Passing(nn.Module):
    """A residual block whose branch is the identity for images above zero, and a head that reads channel means."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False), nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
        self.head = nn.Linear(CHANNELS, 2)
        for conv in (self.a, self.b):
            nn.init.dirac_(conv.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((self.b(torch.relu(self.a(x))) + x).mean((2, 3)))


def images(count: int = 200, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images above zero of two classes, which differ in the first channel's mean only; and the classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    x = 1 + torch.rand(count, CHANNELS, 1, 1, generator=generator) + torch.rand(count, 1, 3, 3, generator=generator)
    x[:, SELECTIVE] = 1 + labels[:, None, None] + 0.1 * torch.rand(count, 3, 3, generator=generator)
    return x, labels


def batches(count: int = 200, size: int = 32, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    x, labels = images(count, seed)
    return list(zip(x.split(size), labels.split(size), strict=True))


def planted(form: str = "inject", **options: object) -> nn.Module:
    """The network with its gates planted; its head reads nothing but what the selective gate did to its channel."""
    make = inject if form == "inject" else attach
    patched = make(Passing(), Gate, input_size=(CHANNELS, 3, 3), **options)
    with torch.no_grad():
        gate = next(module for module in patched.modules() if isinstance(module, Gate))
        gate.fc.weight.zero_()
        gate.fc.weight[SELECTIVE, SELECTIVE] = 20.0
        gate.fc.weight[MOVING, MOVING] = 1.0
        gate.fc.bias.copy_(torch.tensor([-30.0, 0.0, -20.0, -2.0]))
        patched.head.weight.zero_()
        # out = x (1 + w): between 1 and 1.1 in class 0, above 3.9 in class 1; about 1.5 and 3 with w frozen.
        patched.head.weight[1, SELECTIVE] = 1.0
        patched.head.bias.copy_(torch.tensor([3.5, 0.0]))
    return patched.eval()


def unmoved() -> nn.Module:
    """The same, but the head's threshold lies where no answer changes with the selective gate frozen."""
    patched = planted()
    with torch.no_grad():
        # Between 1.1 and 3.9 as it is, and between 1.7 and 3 frozen: the outputs move, and no answer does.
        patched.head.bias.copy_(torch.tensor([2.3, 0.0]))
    return patched
