"""torchvision's detectors: whole, where `attach` follows a run of them, and by scope: the backbone has a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import detection, list_models

from attn_inject import PlanError, attach, find_sites, inject, remove
from attn_inject.tracing.inputs import tensors_in

pytestmark = pytest.mark.zoo


@dataclass(frozen=True)
class Detector:
    """The blocks with a skip add are those of its backbone: so many, all of them below `home`."""

    name: str
    blocks: int
    home: str


RESNET, MOBILENET = (16, "backbone.body.layer"), (10, "backbone.body.")
DETECTORS = (
    Detector("fasterrcnn_resnet50_fpn", *RESNET),
    Detector("fasterrcnn_resnet50_fpn_v2", *RESNET),
    Detector("fasterrcnn_mobilenet_v3_large_fpn", *MOBILENET),
    Detector("fasterrcnn_mobilenet_v3_large_320_fpn", *MOBILENET),
    Detector("retinanet_resnet50_fpn", *RESNET),
    Detector("retinanet_resnet50_fpn_v2", *RESNET),
    Detector("fcos_resnet50_fpn", *RESNET),
    Detector("maskrcnn_resnet50_fpn", *RESNET),
    Detector("maskrcnn_resnet50_fpn_v2", *RESNET),
    Detector("keypointrcnn_resnet50_fpn", *RESNET),
    Detector("ssdlite320_mobilenet_v3_large", 10, "backbone.features."),
)
# By hand: the same code as another of them, but for layers in its backbone or head.
MORE = {
    "fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn",
    "retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "maskrcnn_resnet50_fpn_v2", "keypointrcnn_resnet50_fpn",
}  # fmt: skip
IMAGES = [torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) for size in ((64, 64), (48, 80))]
SE = {"attention": "se", "min_width": 1}


def build(name: str) -> Any:
    torch.manual_seed(0)
    small = {} if name.startswith("ssd") else {"min_size": 64, "max_size": 64}
    # Few proposals and detections, and some: what is looked for among thousands of boxes is the same.
    if name.startswith(("ssd", "retina", "fcos")):
        few = {"detections_per_img": 4, "topk_candidates": 20}
        low = {"score_thresh": 0.0}
    else:
        few = {"box_detections_per_img": 4, "rpn_post_nms_top_n_test": 20, "rpn_post_nms_top_n_train": 20}
        low = {"box_score_thresh": 0.0}
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=3, **small, **few, **low)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


def detected(model: nn.Module) -> list[torch.Tensor]:
    with torch.no_grad():
        found = model([image.clone() for image in IMAGES])
    assert all(len(each["boxes"]) for each in found)
    return list(tensors_in(found))


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize(
    "detector",
    [pytest.param(each, marks=[pytest.mark.bench] * (each.name in MORE), id=each.name) for each in DETECTORS],
)
def test_a_detector_whole_and_by_scope(detector: Detector) -> None:
    model = build(detector.name)
    sites = find_sites(model, example_inputs=(IMAGES,))
    assert sites.recorded
    assert len(sites) == detector.blocks
    assert all(site.kind == "residual" and site.block.startswith(detector.home) for site in sites)

    before = detected(model)
    attached = attach(model, **SE, init="identity", example_inputs=(IMAGES,)).eval()
    assert type(attached) is type(model)
    assert len(attached.injection.plan.insertions) == detector.blocks
    assert same(detected(attached), before)

    injected: Any = inject(model, **SE, init="identity", scope="backbone", input_size=(3, 64, 64)).eval()
    plan = injected.injection.plan
    assert [f"backbone.{each.site.block}" for each in plan.insertions] == [site.block for site in sites]
    assert same(detected(injected), before)
    assert same(detected(remove(injected)), before)

    # Other gates change what is found, in both forms alike.
    gated = [
        make(model, **SE, **how).eval()
        for make, how in (
            (attach, {"example_inputs": (IMAGES,)}),
            (inject, {"scope": "backbone", "input_size": (3, 64, 64)}),
        )
    ]
    gated[1].load_state_dict(gated[0].state_dict())
    assert same(detected(gated[0]), detected(gated[1]))
    with torch.no_grad():
        maps = [list(tensors_in(each.backbone(torch.stack(IMAGES[:1])))) for each in (model, *gated)]
    assert same(maps[1], maps[2])
    assert not any(map(torch.equal, maps[0], maps[1]))


def test_every_detector_of_torchvision_is_one_of_these() -> None:
    assert sorted(list_models(module=detection)) == sorted([*(each.name for each in DETECTORS), "ssd300_vgg16"])


def test_a_detector_without_skip_adds() -> None:
    model = build("ssd300_vgg16")
    sites = find_sites(model, example_inputs=(IMAGES,))
    assert (len(sites), bool(sites.recorded)) == (0, True)
    with pytest.raises(PlanError, match="^no sites: "):
        attach(model, "eca", example_inputs=(IMAGES,))
    # The resolutions of its backbone are gated where they are asked for.
    before = detected(model)
    staged: Any = inject(
        model, **SE, init="identity", scope="backbone.features", kinds=("stage",), input_size=(3, 64, 64)
    )
    assert staged.injection.plan.insertions
    assert same(detected(staged.eval()), before)
