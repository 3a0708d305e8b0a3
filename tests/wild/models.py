"""Networks of other packages, small, and which of their modules are blocks with a skip add.

The truth is read off the packages' code: the classes whose forward adds a branch to a shortcut. Here, in a test,
classes are asked by name; the library never does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from attn_inject.tracing.inputs import tensors_in


def _all(_block: Any) -> bool:
    return True


@dataclass(frozen=True)
class Wild:
    """One network: how to build it, the classes of its blocks, the size of one input.

    A class stands in `blocks` as often as its forward adds a branch to a shortcut; `where` says which of its instances
    do. `fixed` networks take no other size than theirs.
    """

    package: str
    name: str
    build: Callable[[Any], nn.Module]
    blocks: tuple[str, ...] = ()
    size: tuple[int, ...] = (3, 64, 64)
    where: Callable[[Any], bool] = _all
    fixed: bool = False

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
        """The paths of its blocks that the output hangs on, sorted."""
        asked = [(name, module) for name, module in model.named_modules() if self.where(module)]
        adds = {name: count for name, module in asked if (count := self.blocks.count(type(module).__name__))}
        given: dict[str, list[torch.Tensor]] = {}

        def note(name: str, *seen: Any) -> None:
            given[name] = list(tensors_in(seen[-1]))[:1]

        handles = [model.get_submodule(name).register_forward_hook(partial(note, name)) for name in adds]
        mode = model.training
        try:
            out = sum(part.sum() for part in tensors_in(model.eval()(torch.zeros(1, *self.size))) if part.requires_grad)
        finally:
            model.train(mode)
            for handle in handles:
                handle.remove()
        reached = torch.autograd.grad(out, [value for (value,) in given.values()], allow_unused=True) if given else ()
        names = [name for name, gradient in zip(given, reached, strict=True) if gradient is not None]
        return sorted(name for name in names for _ in range(adds[name]))


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


def _woken(made: nn.Module) -> nn.Module:
    """With weights where it starts at zero, and no gate before would change anything."""
    for weight in made.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.1)
    return made


def _loud(made: nn.Module) -> nn.Module:
    """With convolutions that keep the size of what they are given: its package's let it die within a few layers."""
    for module in made.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight)
    return made


def _medical(
    name: str, dimensions: int, blocks: tuple[str, ...], *, where: Callable[[Any], bool] = _all, **options: Any
) -> Wild:
    def build(package: Any) -> nn.Module:
        made: nn.Module = getattr(package.networks.nets, name)(spatial_dims=dimensions, **options)
        return made

    return Wild("monai", f"{name}-{dimensions}d", build, blocks, size=(1, *(32,) * dimensions), where=where)


def _nets(name: str, build: Callable[[Any], nn.Module], blocks: tuple[str, ...] = (), **options: Any) -> Wild:
    """One of MONAI's whose arguments are its own."""

    def build_from(package: Any) -> nn.Module:
        return build(package.networks.nets)

    return Wild("monai", name, build_from, blocks, **{"size": (1, 32, 32), **options})


class Handed(nn.Module):
    """A network that is handed more than its image: here what the image does not decide."""

    def __init__(self, network: nn.Module, *more: Any) -> None:
        super().__init__()
        self.network = network
        self.more = more

    def forward(self, image: torch.Tensor) -> Any:
        return self.network(image, *(one(image) if callable(one) else one for one in self.more))


def _yolo(config: str, blocks: tuple[str, ...], kind: str = "DetectionModel") -> Wild:
    """From its configuration, which needs no weights. The package is for tests alone: its licence is not ours."""

    def build(_package: Any) -> nn.Module:
        tasks = importlib.import_module("ultralytics.nn.tasks")
        made: nn.Module = getattr(tasks, kind)(f"{config}.yaml", verbose=False)
        return made

    return Wild("ultralytics", config, build, blocks, where=lambda block: bool(getattr(block, "add", True)))


def _has_skip(block: Any) -> bool:
    """Whether it has one, by what the packages call it; the others' blocks all have one."""
    names = ("use_res_connect", "use_residual", "has_residual", "residual", "apply_dropout", "_has_drop_connect")
    same = getattr(block, "in_channels", None) == getattr(block, "out_channels", None)
    return all(getattr(block, name, True) for name in names) and (
        not hasattr(block, "id_skip") or (same and block.stride in (1, [1]))
    )


def _bends(block: Any) -> bool:
    return any(isinstance(module, nn.PReLU) for module in block.modules())


_SMALL = {"embedding_size": 16, "hidden_sizes": [16, 32, 32, 64], "depths": [2, 2, 1, 1]}
_FOUR = {"hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 2, 1]}
_BOTTLENECKS = {"embedding_size": 16, "hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 1, 2]}
_HG = {
    "stem_channels": [3, 16, 16], "embedding_size": 16, "hidden_sizes": [32, 48, 64, 64],
    "depths": [1, 1, 2, 1], "stage_in_channels": [16, 32, 48, 64], "stage_mid_channels": [8, 16, 16, 16],
    "stage_out_channels": [32, 48, 64, 64], "stage_num_blocks": [1, 1, 3, 1], "stage_numb_of_layers": [2, 2, 2, 2],
}  # fmt: skip
_ENCODERS = {
    "resnet18": ("BasicBlock",),
    "mobilenet_v2": ("InvertedResidual",),
    "timm-regnetx_002": ("Bottleneck",),
    "efficientnet-b0": ("MBConvBlock",),
    "tu-convnext_atto": ("ConvNeXtBlock",),
    "dpn68": ("DualPathBlock",),
}
# What each decoder adds of its own.
_ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "Unet": (), "UnetPlusPlus": (), "MAnet": ("PABBlock",), "Linknet": (), "FPN": (), "PSPNet": (),
    "PAN": ("GAUBlock",), "DeepLabV3": (), "DeepLabV3Plus": (), "UPerNet": (), "Segformer": (),
}  # fmt: skip
_IN_OUT = {"in_channels": 1, "out_channels": 16}
_UNET = {**_IN_OUT, "channels": (16, 32, 32), "strides": (2, 2)}


_LATENT = {"channels": (16, 32, 32), "attention_levels": (False, False, True), "norm_num_groups": 8}
_TIME = torch.tensor([5])


def _diffusion(nets: Any, **more: Any) -> nn.Module:
    return _woken(nets.DiffusionModelUNet(2, 1, 1, (1, 1, 1), **_LATENT, **more))


def _conditioned(nets: Any) -> nn.Module:
    made = _diffusion(nets, with_conditioning=True, cross_attention_dim=4)
    return Handed(made, _TIME, torch.linspace(-1, 1, 12).reshape(1, 3, 4))


def _searched(nets: Any) -> nn.Module:
    space = nets.TopologySearch(channel_mul=0.25, num_blocks=2, num_depths=2, spatial_dims=2)
    made: nn.Module = nets.DiNTS(space, 1, 2, spatial_dims=2)
    return made


def _spade(nets: Any) -> nn.Module:
    made: nn.Module = nets.SPADEAutoencoderKL(
        2, 3, 1, 1, (1, 1), (16, 32), (False, False), norm_num_groups=8, spade_intermediate_channels=8,
        with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
    )  # fmt: skip
    return Handed(made, torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32))


def _voxel_morph(nets: Any) -> nn.Module:
    made: nn.Module = nets.VoxelMorph(nets.VoxelMorphUNet(2, 2, 8, (8,) * 4, (8, 8)), spatial_dims=2)
    return Handed(made, lambda image: image.flip(-1))


def _resnet(package: Any, levels: int = 4) -> Any:
    """The configuration of a small ResNet that gives its last `levels` stages."""
    stages = [f"stage{i}" for i in (1, 2, 3, 4)]
    return package.ResNetConfig(embedding_size=16, **_FOUR, out_features=stages[-levels:])


def _detr(name: str, **sizes: Any) -> Wild:
    """A detector of one layer each over a ResNet; its transformer works on sequences, which are no maps."""
    narrow = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 5}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    plain = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}

    def build(package: Any) -> nn.Module:
        config = getattr(package, f"{name}Config")
        made: nn.Module = getattr(package, f"{name}ForObjectDetection")(
            config(backbone_config=_resnet(package, 1), **narrow, **heads, **plain, **sizes)
        )
        # It freezes its first stages, whose blocks then have no gradient to be known by.
        return made.requires_grad_(requires_grad=True)

    return Wild("transformers", f"{name}ForObjectDetection", build, ("ResNetBottleNeckLayer",))


def _rt_detr(name: str, backbone: str, blocks: tuple[str, ...], sizes: dict[str, Any], widths: list[int]) -> Wild:
    """A detector over the last three stages; its code keeps anchors and positions in caches, and compares data."""
    small = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_layers": 2, "num_queries": 10}
    narrow = {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_model": 32, "encoder_hidden_dim": 32}

    def build(package: Any) -> nn.Module:
        stages = getattr(package, f"{backbone}Config")(**sizes, out_features=["stage2", "stage3", "stage4"])
        config = getattr(package, f"{name}Config")(
            backbone_config=stages, encoder_in_channels=widths, decoder_in_channels=[32] * 3, num_denoising=0,
            **small, **narrow,
        )  # fmt: skip
        made: nn.Module = getattr(package, f"{name}ForObjectDetection")(config)
        return _loud(made.requires_grad_(requires_grad=True))

    return Wild("transformers", f"{name}ForObjectDetection", build, blocks, where=_has_skip)


def _mask_former(package: Any) -> nn.Module:
    decoder = package.DetrConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=5,
        encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    made: nn.Module = package.MaskFormerForInstanceSegmentation(
        package.MaskFormerConfig(
            backbone_config=_resnet(package), decoder_config=decoder, fpn_feature_size=32, mask_feature_size=32
        )
    )
    return made


def _uper_net_on_resnet(package: Any) -> nn.Module:
    config = package.UperNetConfig(
        backbone_config=_resnet(package), hidden_size=32, auxiliary_in_channels=32, num_labels=4
    )
    made: nn.Module = package.UperNetForSemanticSegmentation(config)
    return made


def _timm_backbone(package: Any) -> nn.Module:
    config = package.TimmBackboneConfig(backbone="resnet18", use_pretrained_backbone=False, out_indices=[1, 2, 3, 4])
    made: nn.Module = package.TimmBackbone(config)
    return made


def _vision_of_align(package: Any) -> nn.Module:
    config = {"width_coefficient": 0.5, "depth_coefficient": 0.6, "image_size": 64, "hidden_dim": 640}
    made: nn.Module = package.AlignVisionModel(package.AlignVisionConfig(**config))
    return made


def _depth_anything(package: Any) -> nn.Module:
    backbone = package.Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14,
        out_features=[f"stage{i}" for i in (1, 2, 3, 4)], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    widths = {"neck_hidden_sizes": [16, 32, 32, 32], "fusion_hidden_size": 32, "reassemble_hidden_size": 32}
    made: nn.Module = package.DepthAnythingForDepthEstimation(
        package.DepthAnythingConfig(backbone_config=backbone, **widths)
    )
    return made


def _uper_net(package: Any) -> nn.Module:
    backbone = package.ConvNextConfig(**_FOUR, out_features=[f"stage{i}" for i in (1, 2, 3, 4)])
    config = package.UperNetConfig(
        backbone_config=backbone, hidden_size=32, use_auxiliary_head=True, auxiliary_in_channels=32, num_labels=4
    )
    made: nn.Module = package.UperNetForSemanticSegmentation(config)
    return made


_NARROW = {
    "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 5,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2,
}  # fmt: skip


def _dab_detr(package: Any) -> nn.Module:
    config = package.DabDetrConfig(backbone_config=_resnet(package, 1), hidden_size=32, **_NARROW)
    made: nn.Module = package.DabDetrForObjectDetection(config)
    return made.requires_grad_(requires_grad=True)


def _deformable_detr(package: Any) -> nn.Module:
    config = package.DeformableDetrConfig(backbone_config=_resnet(package, 3), d_model=32, **_NARROW)
    made: nn.Module = package.DeformableDetrForObjectDetection(config)
    return made.requires_grad_(requires_grad=True)


def _mask2former(package: Any) -> nn.Module:
    config = package.Mask2FormerConfig(
        backbone_config=_resnet(package), feature_size=32, mask_feature_size=32, hidden_dim=32, num_queries=5,
        encoder_feedforward_dim=32, encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=32,
    )  # fmt: skip
    made: nn.Module = package.Mask2FormerForUniversalSegmentation(config)
    return made


def _dewarping(package: Any) -> nn.Module:
    stages = [[(16, 16, 1, False)], [(16, 16, 1, True), (16, 16, 3, False)], [(16, 16, 1, True)]]
    backbone = package.UVDocBackboneConfig(
        resnet_head=[(3, 16), (16, 16)], resnet_configs=stages, stage_configs=[[(16, 1)], [(16, 2)]],
        out_features=["stage1", "stage2"],
    )  # fmt: skip
    made: nn.Module = package.UVDocModel(
        package.UVDocConfig(
            backbone_config=backbone, bridge_connector=[16, 16], out_point_positions2D=[[16, 8], [8, 2]]
        )
    )
    return made


def _zoe_depth(package: Any) -> nn.Module:
    backbone = package.BeitConfig(
        **_TOKENS, out_features=[f"stage{i}" for i in (1, 2, 3, 4)], use_relative_position_bias=True,
        reshape_hidden_states=False,
    )  # fmt: skip
    return _loud(
        package.ZoeDepthForDepthEstimation(package.ZoeDepthConfig(
            backbone_config=backbone, neck_hidden_sizes=[16] * 4, fusion_hidden_size=16, bottleneck_features=16,
            bin_embedding_dim=16,
        ))
    )  # fmt: skip


def _vit_matte(package: Any) -> nn.Module:
    backbone = package.VitDetConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16, num_channels=4,
        residual_block_indices=[1], out_features=["stage2"],
    )  # fmt: skip
    config = package.VitMatteConfig(
        backbone_config=backbone, hidden_size=32, convstream_hidden_sizes=[8, 16, 16],
        fusion_hidden_sizes=[16, 16, 8, 8],
    )  # fmt: skip
    return _woken(package.VitMatteForImageMatting(config))


def _vit_pose(package: Any) -> nn.Module:
    backbone = package.VitPoseBackboneConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=[32, 32], patch_size=[8, 8],
        out_features=["stage2"],
    )  # fmt: skip
    config = package.VitPoseConfig(backbone_config=backbone, use_simple_decoder=False)
    made: nn.Module = package.VitPoseForPoseEstimation(config)
    return made


def _text_detector(package: Any) -> nn.Module:
    backbone = package.PPLCNetV3Config(scale=0.25, out_features=[f"stage{i}" for i in (2, 3, 4, 5)])
    config = package.PPOCRV5MobileDetConfig(
        backbone_config=backbone, neck_out_channels=16, layer_list_out_channels=[8] * 4
    )
    made: nn.Module = package.PPOCRV5MobileDetForObjectDetection(config)
    return made


def _text_detector_of_servers(package: Any) -> nn.Module:
    kernels: dict[str, Any] = {"reduce_channel": [1, 1, 0], "return_channel": [1, 1, 0]}
    for name, size in (("long", 7), ("mid", 5), ("short", 3)):
        kernels[f"vertical_long_to_small_conv_{name}ratio"] = [[size, 1], [1, 1], [size // 2, 0]]
        kernels[f"horizontal_small_to_long_conv_{name}ratio"] = [[1, size], [1, 1], [0, size // 2]]
        kernels[f"symmetric_conv_long_{name}ratio"] = [[size, size], [1, 1], [size // 2, size // 2]]
    config = package.PPOCRV5ServerDetConfig(
        backbone_config=package.HGNetV2Config(**_HG, out_features=[f"stage{i}" for i in (1, 2, 3, 4)]),
        neck_out_channels=32, intraclass_block_config=kernels, scale_factor_list=[1, 2, 4, 8], kernel_list=[3, 2, 2],
    )  # fmt: skip
    made: nn.Module = package.PPOCRV5ServerDetForObjectDetection(config)
    return made


def _dense_prediction(package: Any) -> nn.Module:
    made: nn.Module = package.DPT(
        "tu-test_vit", encoder_depth=4, encoder_weights=None, decoder_intermediate_channels=(16,) * 4,
        decoder_fusion_channels=16, dynamic_img_size=True,
    )  # fmt: skip
    return made


_TOKENS = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
_DPT = {"backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16] * 4, "fusion_hidden_size": 16, **_TOKENS}
_POINTS = {"encoder_hidden_sizes": [8, 8, 16, 16], "decoder_hidden_size": 16, "descriptor_decoder_dim": 16}

WILD: tuple[Wild, ...] = (
    _hugging("ResNet", _SMALL, ("ResNetBottleNeckLayer",)),
    _hugging("ResNet", {**_SMALL, "out_features": ["stage4"]}, ("ResNetBottleNeckLayer",), head="Backbone"),
    Wild(
        "transformers", "MaskFormerForInstanceSegmentation", _mask_former, ("ResNetBottleNeckLayer",),
    ),
    _hugging("RTDetrResNet", _SMALL, ("RTDetrResNetBottleNeckLayer",), head="Backbone"),
    _hugging("RegNet", {**_SMALL, "groups_width": 16}, ("RegNetXLayer", "RegNetYLayer")),
    _hugging("ConvNext", _FOUR, ("ConvNextLayer",)),
    _hugging("ConvNextV2", _FOUR, ("ConvNextV2Layer",)),
    _hugging("MobileNetV2", {}, ("MobileNetV2InvertedResidual",), where=_has_skip),
    _hugging("MobileNetV2", {}, ("MobileNetV2InvertedResidual",), head="ForSemanticSegmentation", where=_has_skip),
    _hugging(
        "Bit",
        {"hidden_sizes": [32, 64, 64, 64], "depths": [1, 2, 1, 1], "embedding_size": 16, "num_groups": 4},
        ("BitPreActivationBottleneckLayer",),
    ),
    _hugging(
        "EfficientNet", {"width_coefficient": 0.5, "depth_coefficient": 0.6, "image_size": 64, "hidden_dim": 640},
        ("EfficientNetFinalBlockLayer",), where=_has_skip,
    ),
    _hugging(
        "HGNetV2", _HG,
        ("HGNetV2BasicLayer",), where=_has_skip,
    ),
    _hugging("PoolFormer", _FOUR, ("PoolFormerLayer",)),
    _hugging(
        "SwiftFormer", {"embed_dims": [16, 32, 32, 32], "depths": [1, 1, 2, 1]},
        ("SwiftFormerLocalRepresentation", "SwiftFormerConvEncoder", "SwiftFormerEncoderBlock"),
    ),
    _hugging("MobileViT", {"image_size": 64}, ("MobileViTInvertedResidual",), where=_has_skip),
    # Its transformer is one of convolutions: attention and feed-forward are branches with one.
    _hugging(
        "MobileViTV2", {"image_size": 64},
        ("MobileViTV2InvertedResidual", "MobileViTV2TransformerLayer", "MobileViTV2TransformerLayer"), where=_has_skip,
    ),
    _hugging("TimmWrapper", {"architecture": "resnet18"}, ("BasicBlock",)),
    Wild("transformers", "UperNet", _uper_net, ("ConvNextLayer",), size=(3, 128, 128)),
    Wild("transformers", "UperNet-ResNet", _uper_net_on_resnet, ("ResNetBottleNeckLayer",), size=(3, 128, 128)),
    _hugging("DINOv3ConvNext", _FOUR, ("DINOv3ConvNextLayer",), head="Model"),
    Wild("transformers", "TimmBackbone", _timm_backbone, ("BasicBlock",)),
    Wild("transformers", "AlignVisionModel", _vision_of_align, ("AlignVisionFinalBlockLayer",), where=_has_skip),
    # A transformer whose neck is of residual blocks, as MiDaS made it.
    Wild(
        "transformers", "DepthAnything", _depth_anything, ("DepthAnythingPreActResidualLayer",), size=(3, 56, 56),
    ),
    # Of RT-DETR's kind, but what it decides on is no data.
    Wild("transformers", "DabDetrForObjectDetection", _dab_detr, ("ResNetBottleNeckLayer",)),
    _hugging("HGNetV2", _HG, ("HGNetV2BasicLayer",), head="Backbone", where=_has_skip),
    _hugging(
        "PPLCNetV4", {"scale": 0.25}, ("PPLCNetV4DepthwiseSeparableConvLayer",), head="Backbone", where=_has_skip,
    ),
    Wild("transformers", "UVDocModel", _dewarping, ("UVDocResidualBlock",), size=(3, 96, 96)),
    Wild(
        "transformers", "PPOCRV5ServerDet", _text_detector_of_servers,
        ("HGNetV2BasicLayer", "PPOCRV5ServerDetIntraclassBlock"), where=_has_skip,
    ),
    # Its stages add sequences; the model adds maps, around all of them.
    _hugging(
        "Swin2SR", {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        ("Swin2SRModel",), head="ForImageSuperResolution", size=(3, 32, 32),
    ),
    _hugging("DPT", _DPT, ("DPTPreActResidualLayer",), head="ForDepthEstimation", size=(3, 32, 32)),
    Wild("transformers", "ZoeDepth", _zoe_depth, ("ZoeDepthPreActResidualLayer",), size=(3, 32, 32)),
    Wild("transformers", "VitMatte", _vit_matte, ("VitDetResBottleneckBlock",), size=(4, 32, 32)),
    # A transformer's decoder, as MiDaS made it: each of its four steps has two residual blocks.
    Wild("segmentation_models_pytorch", "DPT-test_vit", _dense_prediction, ("ResidualConvBlock",), size=(3, 160, 160)),
    *(
        _segmentation(name, encoder, (*blocks, *own), where=_has_skip, size=(3, 128, 128))
        for name, own in _ARCHITECTURES.items()
        for encoder, blocks in _ENCODERS.items()
    ),
    _yolo("yolov5n", ("Bottleneck",)),
    _yolo("yolov8n", ("Bottleneck",)),
    _yolo("yolov8n-seg", ("Bottleneck",), "SegmentationModel"),
    _yolo("yolov8n-cls", ("Bottleneck",), "ClassificationModel"),
    _yolo("yolov9t", ("RepBottleneck",)),
    # Attention and feed-forward of their attention blocks are branches with convolutions.
    _yolo("yolov10n", ("Bottleneck", "CIB", "PSA", "PSA")),
    _yolo("yolo11n", ("Bottleneck", "PSABlock", "PSABlock")),
    _yolo("yolo12n", ("Bottleneck", "ABlock", "ABlock")),
    *(
        _medical(name, dimensions, blocks, **options)
        for dimensions in (2, 3)
        for name, blocks, options in (
            ("SegResNet", ("ResBlock",), {"init_filters": 16, **_IN_OUT}),
            ("SegResNetDS", ("SegResBlock",), {"init_filters": 16, **_IN_OUT}),
            ("VNet", ("DownTransition", "UpTransition"), _IN_OUT),
            ("HighResNet", ("HighResBlock",), _IN_OUT),
            ("EfficientNetBN", ("MBConvBlock",), {"model_name": "efficientnet-b0", "in_channels": 1, "num_classes": 2,
                                                  "pretrained": False, "where": _has_skip}),
            ("ResNet", ("ResNetBlock",), {"block": "basic", "layers": [1, 1, 1, 1], "n_input_channels": 1,
                                          "block_inplanes": [16, 16, 32, 32]}),
            ("SEResNet50", ("SEResNetBottleneck",), {"in_channels": 1, "num_classes": 2}),
            ("DynUNet", ("UnetResBlock",), {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "res_block": True,
                                            "upsample_kernel_size": [2, 2], **_IN_OUT}),
            ("RegUNet", ("RegistrationResidualConvBlock",), {"in_channels": 1, "num_channel_initial": 16, "depth": 2}),
            # The last unit is one convolution, to the maps that are put out.
            ("AutoEncoder", ("ResidualUnit",), {"where": _bends, "num_res_units": 2, **_UNET, "strides": (2, 2, 2)}),
            ("MedNeXtSmall", ("MedNeXtBlock", "MedNeXtDownBlock", "MedNeXtUpBlock"), _IN_OUT),
        )
    ),
    _nets(
        "SegResNetVAE", lambda nets: nets.SegResNetVAE((32, 32), spatial_dims=2, init_filters=16, vae_nz=16, **_IN_OUT),
        ("ResBlock",),
    ),
    _nets(
        "FlexibleUNet-efficientnet", lambda nets: nets.FlexibleUNet(1, 2, "efficientnet-b0"), ("MBConvBlock",),
        where=_has_skip, size=(1, 64, 64),
    ),
    # Its shortcuts are without a history: only what reaches the blocks by their branches has a gradient.
    _nets("FlexibleUNet-resnet", lambda nets: nets.FlexibleUNet(1, 2, "resnet18"), ("ResNetBlock",), size=(1, 64, 64)),
    # It asks numpy whether its windows fit.
    _nets(
        "SwinUNETR", lambda nets: nets.SwinUNETR(1, 2, feature_size=12, spatial_dims=2), ("UnetResBlock",),
        size=(1, 64, 64),
    ),
    _nets(
        "UNETR", lambda nets: nets.UNETR(1, 2, (32, 32), 8, 32, 64, 4, spatial_dims=2), ("UnetResBlock",),
        fixed=True,
    ),
    # The layers of its dense blocks add a convolution along the third axis to one across it; and of what its own
    # forward adds to what went down, one is of one resolution.
    _nets(
        "AHNet", lambda nets: nets.AHNet((1, 1, 1, 1), 2, 1, 2, 0), ("Bottleneck3x3x1", "Pseudo3DLayer", "AHNet"),
    ),
    _nets(
        "VarAutoEncoder",
        lambda nets: nets.VarAutoEncoder(
            2, (1, 32, 32), 1, 8, (16, 32, 32), (2, 2, 2), num_res_units=2, use_mean_at_inference=True
        ),
        ("ResidualUnit",), where=_bends, fixed=True,
    ),
    # Their attention is between places, on sequences, and its branch has no convolution.
    _nets("AutoencoderKL", lambda nets: nets.AutoencoderKL(2, 1, 1, (1, 1, 1), **_LATENT), ("AEKLResBlock",)),
    _nets("DiffusionModelUNet", lambda nets: Handed(_diffusion(nets), _TIME), ("DiffusionUNetResnetBlock",)),
    # Here it is within a branch that ends with a convolution.
    _nets("DiffusionModelUNet-conditioned", _conditioned, ("DiffusionUNetResnetBlock", "SpatialTransformer")),
    _nets("SPADEAutoencoderKL", _spade, ("SPADEResBlock", "AEKLResBlock")),
    _nets(
        "Discriminator", lambda nets: nets.Discriminator((1, 32, 32), (8, 16), (2, 2), dropout=None), ("ResidualUnit",),
        fixed=True,
    ),
    _nets("SegResNetDS2", lambda nets: nets.SegResNetDS2(2, 16, 1, 2), ("SegResBlock",)),
    # What is interpolated is its upsampling's shortcut.
    _nets(
        "LocalNet", lambda nets: nets.LocalNet(2, 1, 8, (0, 1, 2)),
        ("RegistrationResidualConvBlock", "AdditiveUpSampleBlock"),
    ),
    _nets(
        "GlobalNet", lambda nets: _woken(nets.GlobalNet([32, 32], 2, 1, 8, 2)), ("RegistrationResidualConvBlock",),
        fixed=True,
    ),
    # A cell's operations are an identity and a convolution, whose results are added.
    _nets(
        "DiNTS",
        lambda nets: nets.DiNTS(
            nets.TopologyInstance(channel_mul=0.25, num_blocks=2, num_depths=2, spatial_dims=2), 1, 2, spatial_dims=2
        ),
        ("MixedOp",),
    ),
    # While it is searched, both are weighted.
    _nets("DiNTS-searched", _searched, ("MixedOp",)),
    # A transformer of maps: its attention, between channels, and its feed-forward are branches with convolutions.
    _nets(
        "Restormer",
        lambda nets: nets.restormer.Restormer(2, 1, 1, 16, (1, 1, 1, 1), (1, 2, 2, 4), num_refinement_blocks=1),
        ("MDTATransformerBlock", "MDTATransformerBlock"),
    ),
    _nets(
        "MILModel", lambda nets: nets.MILModel(2, pretrained=False, backbone="resnet18"), ("BasicBlock",),
        size=(2, 3, 64, 64),
    ),
    _nets(
        "SENet154", lambda nets: nets.SENet154((1, 1, 1, 1), spatial_dims=2, in_channels=1, num_classes=2),
        ("SEBottleneck",),
    ),
    _nets(
        "SEResNext50", lambda nets: nets.SEResNext50((1, 1, 1, 1), spatial_dims=2, in_channels=1, num_classes=2),
        ("SEResNeXtBottleneck",),
    ),
)  # fmt: skip

# Networks whose code decides on data: there is a recording of a run, which attach follows.
RECORDED: tuple[Wild, ...] = (
    _detr("Detr", d_model=32),
    _detr("ConditionalDetr", d_model=32),
    _detr("TableTransformer", d_model=32),
    *(
        _rt_detr(name, "RTDetrResNet", ("RTDetrResNetBottleNeckLayer",), _BOTTLENECKS, [64, 128, 256])
        for name in ("RTDetr", "RTDetrV2")
    ),
    _rt_detr("Deimv2", "HGNetV2", ("HGNetV2BasicLayer",), _HG, [48, 64, 64]),
    Wild(
        "transformers",
        "DeformableDetrForObjectDetection",
        _deformable_detr,
        ("ResNetBottleNeckLayer",),
        size=(3, 128, 128),
    ),
    Wild("transformers", "Mask2FormerForUniversalSegmentation", _mask2former, ("ResNetBottleNeckLayer",)),
    _rt_detr("DFine", "HGNetV2", ("HGNetV2BasicLayer",), _HG, [48, 64, 64]),
)

# Networks whose code has no add of a branch to its shortcut.
WITHOUT: tuple[Wild, ...] = (
    # Their convolutions within blocks are on tokens.
    _hugging("PvtV2", {"hidden_sizes": [16, 32, 32, 32], "depths": [1] * 4, "num_attention_heads": [1, 2, 2, 2]}, ()),
    _hugging("MobileNetV1", {"depth_multiplier": 0.25}, ()),
    _hugging("TextNet", {}, ()),
    _hugging("PPLCNet", {}, ()),
    _hugging("PPLCNet", {"scale": 0.25}, (), head="Backbone"),
    # Its convolutions stand side by side, to be one.
    _hugging("PPLCNetV3", {"scale": 0.25}, (), head="Backbone"),
    # And its neck's shortcuts are around gates of its own.
    Wild("transformers", "PPOCRV5MobileDet", _text_detector),
    Wild("transformers", "VitPose", _vit_pose, size=(3, 32, 32)),
    # Its convolutions are a linear modulation's, on tokens; its blocks add sequences.
    _hugging("FocalNet", {"embed_dim": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "image_size": 64}, ()),
    _hugging("Segformer", {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 64, 64]}, ()),
    _hugging("Levit", {"image_size": 64}, ()),
    # Its convolutions make queries, keys and values of tokens.
    _hugging("Cvt", {"embed_dim": [16, 32, 64], "num_heads": [1, 1, 2], "depth": [1, 2, 3]}, ()),
    _yolo("yolov3-tiny", ()),
    _yolo("yolov6n", ()),
    *(
        _medical(name, dimensions, (), **options)
        for dimensions in (2, 3)
        for name, options in (
            ("BasicUNet", _IN_OUT),
            ("BasicUNetPlusPlus", _IN_OUT),
            ("AttentionUnet", _UNET),
            ("UNet", _UNET),
            ("DenseNet121", _IN_OUT),
        )
    ),
    _nets("Quicknat", lambda nets: nets.Quicknat(4, 1, 16)),
    # Its gates are of its own: it adds nothing, and joins all.
    _nets("Quicknat-CSE", lambda nets: nets.Quicknat(4, 1, 16, se_block="CSE")),
    _nets("PatchDiscriminator", lambda nets: nets.PatchDiscriminator(2, 16, 1)),
    # It adds a displacement to what it moves by itself, without a convolution.
    _nets("VoxelMorph", _voxel_morph),
)

# The same, and their code decides on data.
RECORDED_WITHOUT: tuple[Wild, ...] = (_hugging("SuperPoint", _POINTS, (), head="ForKeypointDetection"),)
