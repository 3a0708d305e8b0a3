"""torchvision's detection and segmentation networks, one of each family: attached whole, trained, saved, exported."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import detection, segmentation
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from attn_inject import attach

from ..whole import Use, by_onnx_from_a_trace, check_whole

pytestmark = [
    pytest.mark.zoo,
    # What torch says of the older exporter, and this one of what its trace follows.
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning", "ignore::FutureWarning"
    ),
]

CLASSES = 3
POINTS = 5
SIDE = 96
# Few proposals and detections, and some: what is looked for among thousands of boxes is the same.
TWO_STAGES = {
    "min_size": SIDE, "max_size": SIDE, "num_classes": CLASSES, "box_detections_per_img": 4, "box_score_thresh": 0.0,
    "rpn_post_nms_top_n_test": 20, "rpn_post_nms_top_n_train": 20,
}  # fmt: skip
ONE_STAGE = {"num_classes": CLASSES, "detections_per_img": 4, "topk_candidates": 20, "score_thresh": 0.0}
NO_WEIGHTS = {"weights": None, "weights_backbone": None}


def _mask_rcnn() -> nn.Module:
    """Over the norms and with the frozen stem that all detectors with pretrained weights have."""
    return detection.MaskRCNN(
        resnet_fpn_backbone(backbone_name="resnet18", weights=None),
        mask_head=MaskRCNNHeads(256, (256,), 1),
        **TWO_STAGES,
    )


def _keypoint_rcnn() -> nn.Module:
    return detection.KeypointRCNN(
        resnet_fpn_backbone(backbone_name="resnet18", weights=None),
        keypoint_head=KeypointRCNNHeads(256, (32,)), keypoint_predictor=KeypointRCNNPredictor(32, POINTS), **TWO_STAGES,
    )  # fmt: skip


def _dense(kind: Any) -> nn.Module:
    """RetinaNet and FCOS, which start at the second resolution and add two."""
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)
    )
    return kind(backbone, min_size=SIDE, max_size=SIDE, **ONE_STAGE)


def _ssd() -> nn.Module:
    """With smaller weights in its head: over maps without norms all scores were 1, which has no order."""
    model = detection.ssd300_vgg16(**NO_WEIGHTS, **ONE_STAGE)
    with torch.no_grad():
        for parameter in model.head.classification_head.parameters():
            parameter.mul_(0.1)
    return model


DETECTORS: dict[str, Callable[[], nn.Module]] = {
    "Faster R-CNN": lambda: detection.fasterrcnn_mobilenet_v3_large_320_fpn(**NO_WEIGHTS, **TWO_STAGES),
    "Mask R-CNN": _mask_rcnn,
    "Keypoint R-CNN": _keypoint_rcnn,
    "RetinaNet": partial(_dense, detection.RetinaNet),
    "FCOS": partial(_dense, detection.FCOS),
    "SSD": _ssd,
    "SSDlite": lambda: detection.ssdlite320_mobilenet_v3_large(**NO_WEIGHTS, **ONE_STAGE),
}
SEGMENTATION = {
    "DeepLabV3": lambda: segmentation.deeplabv3_mobilenet_v3_large(**NO_WEIGHTS, num_classes=CLASSES),
    "LR-ASPP": lambda: segmentation.lraspp_mobilenet_v3_large(**NO_WEIGHTS, num_classes=CLASSES),
}


def _images(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator) for size in ((SIDE, SIDE), (80, SIDE))[:count]]


def _targets(images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Two things in each image, with masks and key points; a detector takes of it what it learns from."""
    boxes = torch.tensor([[10.0, 10.0, 50.0, 60.0], [30.0, 20.0, 90.0, 70.0]])
    within = torch.rand(2, POINTS, 2, generator=torch.Generator().manual_seed(1))
    points = within * (boxes[:, None, 2:] - boxes[:, None, :2])
    seen = torch.ones(2, POINTS, 1)
    targets = []
    for image in images:
        masks = torch.zeros(2, *image.shape[1:], dtype=torch.uint8)
        masks[0, 10:60, 10:50] = masks[1, 20:70, 30:90] = 1
        keypoints = torch.cat([points + boxes[:, None, :2], seen], dim=2)
        targets.append({"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks, "keypoints": keypoints})
    return targets


def _built(make: Callable[[], nn.Module], losses: Callable[[nn.Module], object], seed: int) -> nn.Module:
    """With norms that know the images, as trained ones do: maps would fade otherwise, and all boxes score alike."""
    torch.manual_seed(seed)
    model = make()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        norm.momentum = None
    with torch.no_grad():
        losses(model.train())
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector(name: str, tmp_path: Path) -> None:
    # A VGG on 300 x 300 takes as long as all the others; its norms are none that two images are needed for.
    images = _images(1 if name == "SSD" else 2)
    targets = _targets(images)
    kinds = ("stage",) if name == "SSD" else ("residual",)

    def losses(model: nn.Module) -> list[torch.Tensor]:
        return list(model(copy.deepcopy(images), copy.deepcopy(targets)).values())

    use = Use(partial(_built, DETECTORS[name], losses), images, losses, (by_onnx_from_a_trace,))
    attached = attach(
        use.build(0), "se", reduction=4, init="identity", example_inputs=(images,), kinds=kinds, copy=True
    )
    check_whole(use, attached, tmp_path)


@pytest.mark.parametrize("name", SEGMENTATION)
def test_a_segmentation_network(name: str, tmp_path: Path) -> None:
    # Normalised, as they come, and as `save` tries what it wrote: on others maps of random weights grow without bound.
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    classes = torch.randint(CLASSES, (2, SIDE, SIDE), generator=torch.Generator().manual_seed(1))

    def losses(model: nn.Module) -> list[torch.Tensor]:
        return [F.cross_entropy(scores, classes) for scores in model(images).values()]

    use = Use(partial(_built, SEGMENTATION[name], losses), images, losses)
    attached = attach(use.build(0), "se", reduction=4, init="identity", input_size=SIDE, copy=True)
    check_whole(use, attached, tmp_path)
