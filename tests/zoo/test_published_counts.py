"""Site counts that are known from the papers and the libraries' own block lists."""

from __future__ import annotations

import pytest

from attn_inject import find_sites

from .sweep import Row, build

# (residual, mixed), eval graph. The counts are those of the networks' residual blocks with a skip add.
COUNTS = {
    "torchvision:resnet50": (16, 0), "torchvision:resnext50_32x4d": (16, 0), "torchvision:wide_resnet50_2": (16, 0),
    "torchvision:mobilenet_v2": (10, 0), "torchvision:mobilenet_v3_large": (10, 0),
    "torchvision:efficientnet_b0": (9, 0),
    "torchvision:efficientnet_v2_s": (35, 0), "torchvision:regnet_y_400mf": (16, 0),
    "torchvision:convnext_tiny": (18, 0),
    "torchvision:mnasnet1_0": (10, 0), "torchvision:r3d_18": (8, 0), "torchvision:vgg16": (0, 0),
    "torchvision:densenet121": (0, 0), "torchvision:squeezenet1_0": (0, 8), "torchvision:googlenet": (0, 9),
    "torchvision:inception_v3": (0, 11), "timm:inception_v3": (0, 11), "timm:inception_v4": (0, 19),
    "timm:resnet50": (16, 0), "timm:resnetv2_50": (16, 0), "timm:res2net50_26w_4s": (16, 0), "timm:skresnet50": (16, 0),
    "timm:resnest50d": (16, 0), "timm:seresnet50": (16, 0), "timm:hrnet_w18": (112, 0), "timm:dpn68": (22, 0),
    "timm:rexnet_100": (11, 0), "timm:nfnet_f0": (12, 0), "timm:legacy_xception": (12, 0),
    "timm:inception_resnet_v2": (40, 3), "timm:ghostnet_100": (16, 0), "timm:dla34": (12, 0),
    "timm:dla60_res2net": (16, 0), "timm:cspresnet50": (13, 0), "timm:cs3darknet_m": (14, 0), "timm:tresnet_m": (21, 0),
    "timm:repvgg_b0": (0, 0), "timm:convmixer_768_32": (32, 0), "timm:ese_vovnet39b": (2, 0), "timm:hgnet_base": (4, 0),
}  # fmt: skip
# A few blocks of each, by path, with the channels they hand over.
BLOCKS = {
    "torchvision:resnet50": {"layer1.0": 256, "layer2.3": 512, "layer3.5": 1024, "layer4.2": 2048},
    "torchvision:inception_v3": {"Mixed_5b": 256, "Mixed_6a": 768, "Mixed_7c": 2048},
    "torchvision:squeezenet1_0": {"features.3": 128, "features.12": 512},
    "torchvision:convnext_tiny": {"features.1.0": 96, "features.7.2": 768},
    "timm:nfnet_f0": {"stages.0.0": 256, "stages.3.2": 1536},
    "timm:dpn68": {"features.conv2_1": 80, "features.conv5_3": 512 + 64},
    "timm:hrnet_w18": {"layer1.0": 256, "stage2.0.branches.0.0": 18},
}


@pytest.mark.zoo
def test_counts(rows: list[Row]) -> None:
    assert {row.name: (row.residual, row.mixed) for row in rows if row.name in COUNTS} == COUNTS
    assert [row.name for row in rows if row.distinct != row.residual + row.mixed] == []


@pytest.mark.zoo
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_and_channels(name: str) -> None:
    found = {site.block: site.channels for site in find_sites(build(name))}
    assert {block: found.get(block) for block in BLOCKS[name]} == BLOCKS[name]
