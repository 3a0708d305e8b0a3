"""MACs against closed forms and torch's own counter; FLOPs against the rules written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

import attn_inject
from attn_inject.cost.amounts import Cost
from attn_inject.cost.counting import count


def cost_of(model: nn.Module, *shape: int) -> Cost:
    return count(model, (torch.empty(shape, device="meta"),)).total


CLOSED_FORMS = {
    "conv": (nn.Conv2d(3, 8, 3, padding=1, bias=False), (2, 3, 10, 12), 2 * 8 * 10 * 12 * 3 * 9, 0),
    "conv with bias": (nn.Conv2d(3, 8, 1), (1, 3, 5, 5), 8 * 25 * 3, 8 * 25),
    "grouped and strided": (nn.Conv2d(8, 8, 3, 2, 1, groups=4, bias=False), (1, 8, 8, 8), 8 * 16 * 2 * 9, 0),
    "depthwise": (nn.Conv2d(6, 6, 5, padding=2, groups=6, bias=False), (1, 6, 7, 7), 6 * 49 * 25, 0),
    "conv1d": (nn.Conv1d(1, 1, 3, padding=1, bias=False), (4, 1, 32), 4 * 32 * 3, 0),
    "conv3d": (nn.Conv3d(2, 4, 3, padding=1, bias=False), (1, 2, 4, 5, 6), 4 * 120 * 2 * 27, 0),
    "transposed": (nn.ConvTranspose2d(4, 2, 2, 2, bias=False), (1, 4, 3, 3), 4 * 9 * 2 * 4, 0),
    "linear": (nn.Linear(16, 4, bias=False), (3, 16), 3 * 16 * 4, 0),
    "linear with bias": (nn.Linear(16, 4), (3, 16), 3 * 16 * 4, 3 * 4),
    "linear over tokens": (nn.Linear(16, 4, bias=False), (3, 5, 16), 15 * 16 * 4, 0),
    "relu": (nn.ReLU(), (2, 3, 4, 4), 0, 96),
    "in-place relu": (nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)), (2, 3, 4, 4), 0, 96),
    "hard-swish": (nn.Hardswish(inplace=True), (2, 3, 4, 4), 0, 96),
    "softmax": (nn.Softmax(1), (2, 10), 0, 5 * 20),
    "batch norm": (nn.BatchNorm2d(3), (2, 3, 4, 4), 0, 2 * 96),
    "layer norm": (nn.LayerNorm(8), (2, 8), 0, 5 * 16),
    "group norm": (nn.GroupNorm(2, 4), (2, 4, 3, 3), 0, 5 * 72),
    "max pool": (nn.MaxPool2d(3, 2, 1), (1, 4, 8, 8), 0, 9 * 4 * 16),
    "average pool": (nn.AvgPool2d((2, 1)), (1, 4, 8, 8), 0, 2 * 4 * 32),
    "global pool": (nn.AdaptiveAvgPool2d(1), (1, 4, 8, 8), 0, 4 * 64),
    "adaptive pool": (nn.AdaptiveAvgPool2d(2), (1, 4, 8, 8), 0, 4 * 64),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), (1, 2, 4, 4), 0, 7 * 2 * 64),
    "only moves": (nn.Sequential(nn.PixelShuffle(2), nn.ZeroPad2d(1), nn.Flatten()), (1, 4, 4, 4), 0, 0),
    "dropout in eval": (nn.Dropout(0.5), (1, 4), 0, 0),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_forms(name: str) -> None:
    model, shape, macs, rest = CLOSED_FORMS[name]
    cost = cost_of(model, *shape)
    assert (cost.macs, cost.flops) == (macs, 2 * macs + rest)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "convnext_tiny", "swin_t"])
def test_macs_are_half_of_what_torchs_counter_says(name: str) -> None:
    with torch.device("meta"):
        model = models.get_model(name).eval()
    images = torch.empty(1, 3, 96, 96, device="meta")
    counted = count(model, (images,))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    assert counted.total.macs > 0
    assert 2 * counted.total.macs == counter.get_total_flops()
    assert counted.unknown == {}


def test_resnet50_as_counted_and_published() -> None:
    """4.089 G MACs of convolutions and the linear (counted); 0.8 % from the 4.12 G of EPSANet's table."""
    with torch.device("meta"):
        model = models.resnet50()
    cost = cost_of(model, 1, 3, 224, 224)
    assert cost.macs == 4_089_184_256
    assert cost.macs == pytest.approx(4.12e9, rel=0.01)


def test_an_unknown_operation_is_named_and_the_rest_still_counted() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.matrix_exp(x).relu()

    counted = count(Odd(), (torch.empty(4, 4, device="meta"),))
    assert counted.unknown == {"aten.linalg_matrix_exp.default": 1}
    assert counted.total.flops == 16


PUBLISHED = {
    # what is injected, MACs published, source
    "EPSANet-50 small": ("resnet50", {"attention": "psa", "placement": "replace"}, 3.62e9),  # EPSANet's README
    "MobileNetV2": ("mobilenet_v2", None, 300e6),  # MobileNetV2 paper, Table 4
    "Inception-v3": ("inception_v3", None, 5.71e9),  # torchvision's table of weights
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures_within_one_percent(name: str) -> None:
    source, injected, published = PUBLISHED[name]
    settings = {"init_weights": False} if source == "inception_v3" else {}
    with torch.device("meta"):
        model = models.get_model(source, **settings)
    side = 299 if source == "inception_v3" else 224
    if injected is not None:
        model = attn_inject.inject(model, **injected, input_size=(3, side, side))
    assert cost_of(model, 1, 3, side, side).macs == pytest.approx(published, rel=0.01)


def test_what_se_and_eca_add_to_resnet50() -> None:
    """SE: as many MACs as parameters. ECA: k C a site, k = 5 5 5 7 for 3 4 6 3 blocks of 256 512 1024 2048."""
    with torch.device("meta"):
        model = models.resnet50()
    plain = cost_of(model, 1, 3, 224, 224).macs
    added = {
        name: cost_of(attn_inject.inject(model, name, input_size=(3, 224, 224)), 1, 3, 224, 224).macs - plain
        for name in ("se", "eca")
    }
    assert added == {"se": 2_514_944, "eca": 5 * (3 * 256 + 4 * 512 + 6 * 1024) + 7 * 3 * 2048}
