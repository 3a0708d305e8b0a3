"""Networks of other packages, small, and which of their modules are blocks with a skip add.

The truth is read off the packages' code: the classes whose forward adds a branch to a shortcut. Here, in a test,
classes are asked by name; the library never does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Wild:
    """One network: how to build it, the classes of its blocks, the size of one input."""

    package: str
    name: str
    build: Callable[[Any], nn.Module]
    blocks: tuple[str, ...] = ()
    size: tuple[int, ...] = (3, 64, 64)
    where: Callable[[Any], bool] = lambda _block: True

    def __str__(self) -> str:
        return f"{self.package}-{self.name}"

    def made(self) -> nn.Module:
        """The network in train mode, with random weights.

        Random norms too: some packages start the last one of a branch at zero, so that no gate there changes anything.
        """
        model = self.build(importlib.import_module(self.package)).train()
        for module in model.modules():
            if "Norm" in type(module).__name__ and isinstance(getattr(module, "weight", None), nn.Parameter):
                nn.init.uniform_(module.weight, 0.5, 1.5)
        return model

    def expected(self, model: nn.Module) -> list[str]:
        """The paths of its blocks, sorted."""
        found = [(name, module) for name, module in model.named_modules() if type(module).__name__ in self.blocks]
        return sorted(name for name, module in found if self.where(module))


def _hugging(
    name: str, config: dict[str, Any], blocks: tuple[str, ...], head: str = "ForImageClassification", **options: Any
) -> Wild:
    def build(package: Any) -> nn.Module:
        made: nn.Module = getattr(package, f"{name}{head}")(getattr(package, f"{name}Config")(**config))
        return made

    return Wild("transformers", f"{name}{head}", build, blocks, **options)


def _segmentation(name: str, encoder: str, blocks: tuple[str, ...], **options: Any) -> Wild:
    def build(package: Any) -> nn.Module:
        made: nn.Module = getattr(package, name)(encoder, encoder_weights=None)
        return made

    return Wild("segmentation_models_pytorch", f"{name}-{encoder}", build, blocks, **options)


def _medical(name: str, dimensions: int, blocks: tuple[str, ...], *, size: int = 32, **options: Any) -> Wild:
    def build(package: Any) -> nn.Module:
        made: nn.Module = getattr(package.networks.nets, name)(spatial_dims=dimensions, **options)
        return made

    return Wild("monai", f"{name}-{dimensions}d", build, blocks, size=(1, *(size,) * dimensions))


def _yolo(config: str, blocks: tuple[str, ...]) -> Wild:
    """From its configuration, which needs no weights. The package is for tests alone: its licence is not ours."""

    def build(_package: Any) -> nn.Module:
        tasks = importlib.import_module("ultralytics.nn.tasks")
        made: nn.Module = tasks.DetectionModel(config, verbose=False)
        return made

    return Wild("ultralytics", config, build, blocks, where=lambda block: bool(block.add))


_SMALL = {"embedding_size": 16, "hidden_sizes": [16, 32, 32, 64], "depths": [2, 2, 1, 1]}
_ENCODERS = {
    "resnet18": ("BasicBlock",),
    "mobilenet_v2": ("InvertedResidual",),
    "timm-regnetx_002": ("Bottleneck",),
}
_ARCHITECTURES = ("Unet", "UnetPlusPlus", "Linknet", "FPN", "UPerNet", "Segformer")
_IN_OUT = {"in_channels": 1, "out_channels": 16}


def _has_skip(block: Any) -> bool:
    return bool(getattr(block, "use_res_connect", True))


WILD: tuple[Wild, ...] = (
    _hugging("ResNet", _SMALL, ("ResNetBottleNeckLayer",)),
    _hugging("ResNet", {**_SMALL, "out_features": ["stage4"]}, ("ResNetBottleNeckLayer",), head="Backbone"),
    _hugging("RegNet", {**_SMALL, "groups_width": 16}, ("RegNetXLayer", "RegNetYLayer")),
    _hugging("ConvNext", {"hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 2, 1]}, ("ConvNextLayer",)),
    _hugging("ConvNextV2", {"hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 2, 1]}, ("ConvNextV2Layer",)),
    _hugging("MobileNetV2", {}, ("MobileNetV2InvertedResidual",), where=lambda block: bool(block.use_residual)),
    _hugging(
        "Bit",
        {"hidden_sizes": [32, 64, 64, 64], "depths": [1, 2, 1, 1], "embedding_size": 16, "num_groups": 4},
        ("BitPreActivationBottleneckLayer",),
    ),
    *(
        _segmentation(name, encoder, blocks, where=_has_skip, size=(3, 128, 128))
        for name in _ARCHITECTURES
        for encoder, blocks in _ENCODERS.items()
        if name == "Unet" or encoder == "resnet18"
    ),
    _yolo("yolov8n.yaml", ("Bottleneck",)),
    _yolo("yolov5n.yaml", ("Bottleneck",)),
    _medical("SegResNet", 2, ("ResBlock",), init_filters=16, **_IN_OUT),
    _medical("SegResNet", 3, ("ResBlock",), init_filters=16, **_IN_OUT),
    _medical("SegResNetDS", 2, ("SegResBlock",), init_filters=16, **_IN_OUT),
    _medical(
        "DynUNet", 3, ("UnetResBlock",), kernel_size=[3, 3, 3], strides=[1, 2, 2], upsample_kernel_size=[2, 2],
        res_block=True, **_IN_OUT,
    ),
    _medical("ResNet", 3, ("ResNetBlock",), block="basic", layers=[1, 1, 1, 1], block_inplanes=[16, 16, 32, 32],
             n_input_channels=1),
)  # fmt: skip
