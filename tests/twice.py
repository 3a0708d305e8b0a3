"""A network with a block that runs twice in one pass: imported by tests, and named to the command line as a file."""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + x)


class Body(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shared, self.last = Block(channels), Block(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.shared(self.shared(x)))
        return out


class Twice(nn.Module):
    """(N, 3, H, W) to (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = Body(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(self.stem(x)).mean((2, 3)))
        return out


class Asking(Twice):
    """Decides on sizes, makes tensors of them, and runs its stem without gradients."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] % 2:
            raise ValueError(f"{x.shape[2]} is odd")
        with torch.no_grad():
            x = self.stem(x)
        out: torch.Tensor = self.head(self.body(x + torch.zeros(x.size(0), 1, 1, 1)).mean((2, 3)))
        return out


class Named(Twice):
    """Takes its image by name, and gives a dict."""

    def forward(self, *, image: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return {"logits": super().forward(image) * scale}


class Deciding(Twice):
    """Decides on the data: it has no graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.max() > -1e9 else -x)


class OneActivation(Twice):
    """Every block ends in the one activation that the network has, which also runs elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.SiLU()
        for block in (self.body.shared, self.body.last):
            block.bn2 = nn.Sequential(block.bn2, act)  # type: ignore[assignment]
        self.head = nn.Sequential(self.head, act)  # type: ignore[assignment]


def make(kind: type[Twice] = Twice) -> Twice:
    """The same weights each time."""
    torch.manual_seed(0)
    return kind()
