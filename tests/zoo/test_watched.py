"""A recording of one run finds what the graph shows: the same sites, on networks of every kind of block."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torchvision
from torch import fx, nn

from attn_inject.sites.select import analyse
from attn_inject.tracing.inputs import image
from attn_inject.tracing.nodes import value_of
from attn_inject.tracing.recording import real_inputs
from attn_inject.tracing.trace import Subject

pytestmark = pytest.mark.zoo

TORCHVISION = (
    "convnext_tiny", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v3_small", "regnet_y_400mf", "resnet18",
    "shufflenet_v2_x1_0", "squeezenet1_1",
)  # fmt: skip
TIMM = (
    "coatnet_pico_rw_224", "convnextv2_atto", "cspresnet50", "densenet121", "dla34", "dpn48b", "edgenext_xx_small",
    "efficientnet_lite0", "ese_vovnet19b_dw", "fastvit_t8", "ghostnet_050", "hgnetv2_b0", "hrnet_w18_small",
    "inception_resnet_v2", "mobilenetv4_conv_small", "mobileone_s0", "mvitv2_tiny", "nf_resnet26", "repvgg_a0",
    "res2net50_26w_4s", "resnest14d", "seresnet18", "skresnet18", "tresnet_m", "xception41",
)  # fmt: skip


def _sites(model: nn.Module, graph: fx.Graph) -> list[Any]:
    found = analyse(model, graph, ("residual", "mixed", "stage"))
    return sorted((key, tuple(value_of(one.join).shape)) for key, calls in found.anatomies.items() for one in calls)


def _is_seen(model: nn.Module, size: int) -> None:
    traced, watched = Subject(model), Subject(model)
    inputs = image(3, size, size)
    drafts = traced.draft("eval", inputs), watched.watched(real_inputs(inputs, model))
    graph, run = (None if each is None else each.graph for each in drafts)
    assert graph is not None
    assert run is not None
    assert _sites(watched.skeleton, run) == _sites(traced.skeleton, graph) != []


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    more = {"init_weights": False} if name == "googlenet" else {}
    _is_seen(torchvision.models.get_model(name, weights=None, **more), 64)


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    model = timm.create_model(name)
    _is_seen(model, 224 if name.startswith(("coatnet", "mvit")) else 96)
