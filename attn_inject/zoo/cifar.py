"""The small ResNets for CIFAR, which neither zoo has.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385, section 4.2: a
3x3 convolution to 16 maps, then three stages of n blocks with 16, 32 and 64 maps, 6n + 2 layers in all; shortcuts are
parameter-free (option A: subsampled and padded with zeros). The pre-activation form is that of He et al., "Identity
Mappings in Deep Residual Networks", https://arxiv.org/abs/1603.05027.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

_WIDTHS = (16, 32, 64)
_DEPTHS = (20, 32, 56)


class PaddedShortcut(nn.Module):
    """Option A: every second position, and zeros for the new channels. (N, C, H, W) -> (N, C + new, H/2, W/2)."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        front = self.new_channels // 2
        thinned: torch.Tensor = x[:, :, ::2, ::2]
        return F.pad(thinned, (0, 0, 0, 0, front, self.new_channels - front))


class BasicBlock(nn.Module):
    """conv-bn-relu-conv-bn, add, relu."""

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = PaddedShortcut(planes - inplanes) if stride > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        activated: torch.Tensor = self.relu(out)
        return activated


class PreActBlock(nn.Module):
    """bn-relu-conv-bn-relu-conv, add."""

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inplanes)
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.downsample = PaddedShortcut(planes - inplanes) if stride > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.conv1(F.relu(self.bn1(x)))
        branch: torch.Tensor = self.conv2(F.relu(self.bn2(out)))
        return branch + identity


class CifarResNet(nn.Module):
    """A ResNet for 32 x 32 images: (N, 3, 32, 32) -> (N, num_classes)."""

    image_size = 32

    def __init__(self, depth: int, *, preact: bool = False, num_classes: int = 10) -> None:
        """Args: depth, 6n + 2. preact: whether norms and activations come before the convolutions."""
        super().__init__()
        if (depth - 2) % 6:
            raise ValueError(f"a CIFAR ResNet has 6n + 2 layers, and {depth} is not of that form")
        block: Callable[[int, int, int], nn.Module] = PreActBlock if preact else BasicBlock
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0]) if not preact else nn.Identity()
        self.relu: nn.Module = nn.Identity() if preact else nn.ReLU(inplace=True)
        stages = []
        for stage, (before, width) in enumerate(zip((_WIDTHS[0], *_WIDTHS), _WIDTHS, strict=False)):
            strides = [2 if stage else 1, *[1] * ((depth - 2) // 6 - 1)]
            blocks = [block(before if i == 0 else width, width, stride) for i, stride in enumerate(strides)]
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = stages
        self.norm: nn.Module = nn.Sequential(nn.BatchNorm2d(_WIDTHS[-1]), nn.ReLU()) if preact else nn.Identity()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(_WIDTHS[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.norm(self.layer3(self.layer2(self.layer1(x))))
        logits: torch.Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def models() -> Mapping[str, Callable[..., nn.Module]]:
    """The factories by name: `resnet20`, ..., `preactresnet56`."""
    return {
        f"{prefix}resnet{depth}": partial(CifarResNet, depth, preact=bool(prefix))
        for prefix in ("", "preact")
        for depth in _DEPTHS
    }
