"""A network in which attention can be worth something at one block only, and an attention that never is."""

from __future__ import annotations

import torch
from torch import nn

# What the channels carry: two pieces of evidence and which of them to trust; what the second block makes of the three;
# a map that nobody reads.
EVIDENCE, TRUST, READ, NOISE = (0, 1), 2, (3, 4, 5), 6
CHANNELS = 7


class Block(nn.Module):
    """out = x + conv2(relu(conv1(x))), whose convolutions carry some channels to others and nothing else."""

    def __init__(self, carried: dict[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
        nn.init.dirac_(self.conv1.weight)
        nn.init.zeros_(self.conv2.weight)
        with torch.no_grad():
            for start, end in carried.items():
                self.conv2.weight[end, start] = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(torch.relu(self.conv1(x)))


class Net(nn.Module):
    """Three blocks. The branch of the second alone carries the evidence to where the head reads it, and with it what
    says which piece to trust: a gate there can open one and shut the other. The other branches carry noise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            Block({NOISE: NOISE}), Block({**dict(zip((*EVIDENCE, TRUST), READ, strict=True))}), Block({NOISE: NOISE})
        )
        self.norm = nn.BatchNorm1d(CHANNELS)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(CHANNELS, 2)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.weight[1, READ[0]] = self.head.weight[1, READ[1]] = 3.0
            self.head.bias.copy_(torch.tensor([6.0, 0.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(self.blocks(x).mean((2, 3)))))


def batches(count: int = 640, size: int = 32, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images whose class is what the trusted piece of evidence says."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.1 * torch.rand(count, CHANNELS, 4, 4, generator=generator)
    bits = torch.randint(0, 2, (count, 3), generator=generator)
    for channel in (*EVIDENCE, TRUST):
        x[:, channel] += 0.5 + bits[:, channel, None, None]
    x[:, NOISE] = torch.rand(count, 1, 1, generator=generator)
    y = torch.where(bits[:, TRUST] == 1, bits[:, 0], bits[:, 1])
    return list(zip(x.split(size), y.split(size), strict=True))


class Placebo(nn.Module):
    """Parameters that take part and change nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + 0 * self.weight[:, None, None])


class Noise(nn.Module):
    """A gate that learns nothing, and does something: weights that have to do with the image only as noise would."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("key", 1e4 * torch.randn(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + 0.25 * torch.sin(self.key * x.detach().mean((2, 3))))[:, :, None, None]
