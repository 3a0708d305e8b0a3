"""Stage sites: the last value of each resolution of the main line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from attn_inject import find_sites, inject
from attn_inject.sites.stage import find_stages, spatial_size

from .. import toys
from .graphs import Net, Read, read


def test_stages_are_found_only_by_name() -> None:
    with torch.device("meta"):
        model = torchvision.models.vgg16()
    assert list(find_sites(model)) == []
    sites = find_sites(model, kinds=("stage",))
    assert [(s.kind, s.size, s.channels) for s in sites] == [
        ("stage", (224, 224), 64),
        ("stage", (112, 112), 128),
        ("stage", (56, 56), 256),
        ("stage", (28, 28), 512),
        ("stage", (14, 14), 512),
    ]
    # The last value of a resolution is the activation before its pool.
    assert [s.node for s in sites] == ["features_3", "features_8", "features_15", "features_22", "features_29"]


def test_stage_gates_keep_the_output_at_identity() -> None:
    model = nn.Sequential(
        toys.conv(3, 8), nn.ReLU(), nn.MaxPool2d(2), toys.conv(8, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model.eval()
    patched = inject(model, "se", kinds=("stage",), reduction=4, init="identity", input_size=(3, 16, 16))
    x = torch.randn(2, 3, 16, 16)
    assert len(patched.injection.plan.insertions) == 2
    assert torch.equal(patched(x), model(x))


Run = Callable[[Net, torch.Tensor], Any]


def _stages(net: Read) -> list[tuple[str, int, str | None]]:
    """(the gated value, its channel axis, the value before the resolution) of every stage."""
    sites = find_stages(net.flow, net.axes, net.output)
    assert [(site.kind, site.join) for site in sites] == [("stage", site.gated) for site in sites]
    return [(site.gated.name, site.channel_axis, site.fork.name if site.fork else None) for site in sites]


NETS: dict[str, tuple[list[tuple[str, int, str | None]], Run]] = {
    # rule and case -> the stages, the net
    "S1 only what all data passes": ([("add", 1, "x")], lambda m, x: torch.sigmoid(m.a(x)) + torch.relu(m.b(x))),
    "S1 the whole map behind a branch": ([("add", 1, "x")], lambda m, x: m.same(x) + torch.relu(x)),
    "S2 one resolution, one site": ([("relu_1", 1, "x")], lambda m, x: torch.relu(m.same(torch.relu(m.same(x))))),
    "S2 two resolutions": (
        [("relu", 1, "x"), ("b", 1, "pool")],
        lambda m, x: F.adaptive_avg_pool2d(m.b(m.pool(torch.relu(m.same(x)))), 1),
    ),
    "S2 one position": ([("same", 1, "x")], lambda m, x: m.c1(F.adaptive_avg_pool2d(m.same(x), 1))),
    "S2 a resolution that comes back": (
        [("same", 1, "x"), ("a", 1, "same"), ("same_1", 1, "a")],
        lambda m, x: m.same(F.interpolate(m.a(m.same(x)), scale_factor=2.0)),
    ),
    "S2 an image that is batched only then": ([("same", 1, "getitem")], lambda m, x: m.same(torch.relu(x)[None])),
    "S3 a lone pool": ([("same", 1, "x")], lambda m, x: F.avg_pool2d(m.same(x), 2)),
    "S3 no convolution at all": ([], lambda m, x: F.avg_pool2d(torch.relu(x), 2)),
    "S4 before the pool": ([("relu", 1, "x")], lambda m, x: F.max_pool2d(torch.relu(m.same(x)), 2)),
    "channels last": ([("permute", 3, "x")], lambda m, x: m.same(x).permute(0, 2, 3, 1)),
    "tokens at the end": ([("same", 1, "x")], lambda m, x: m.same(x).flatten(2)),
    "an axis that is unknown": ([("same", 1, "x")], lambda m, x: (y := m.same(x)) @ y.transpose(2, 3)),
    "the first of several results": ([("same", 1, "x")], lambda m, x: (m.same(x), x.mean())),
    "no result that depends on the input": ([], lambda m, x: torch.ones(2)),
}
LAYERS = {"a": (16, 16, 3, 2), "b": (16, 16, 3, 2), "same": (16, 16), "c1": (16, 16, 1)}


@pytest.mark.parametrize("case", NETS)
def test_stages(case: str) -> None:
    expected, run = NETS[case]
    layers = {name: toys.conv(*shape) for name, shape in LAYERS.items()}
    shape = (16, 8, 8) if "an image" in case else (2, 16, 8, 8)
    assert _stages(read(Net(run, pool=nn.MaxPool2d(2), **layers), shape)) == expected


@pytest.mark.parametrize(
    ("shape", "axis", "size"),
    [((2, 3, 4, 5), 1, (4, 5)), ((2, 4, 5, 3), 3, (4, 5)), ((2, 3, 7), 1, (7,)), ((2, 3), 1, ())],
)
def test_spatial_size(shape: tuple[int, ...], axis: int, size: tuple[int, ...]) -> None:
    net = read(Net(lambda m, x: x), shape)
    assert spatial_size(net["x"], axis) == size


class Segmenting(nn.Module):
    """An FCN: two resolutions, a head that scores classes, and its scores at the image's size."""

    def __init__(self, resize: Callable[[torch.Tensor], torch.Tensor], *, bent: bool = True) -> None:
        super().__init__()
        self.a, self.b, self.head = toys.conv(3, 8), toys.conv(8, 16, s=2), toys.conv(16, 4, 1)
        self.resize, self.bend = resize, torch.relu if bent else torch.clone

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.resize(self.head(self.bend(self.b(torch.relu(self.a(x))))))


@pytest.mark.parametrize(
    "resize", [torch.clone, lambda y: F.interpolate(y, scale_factor=2.0), lambda y: F.interpolate(y, size=(16, 16)) * 2]
)
def test_scores_that_a_bare_convolution_makes_are_no_place_for_a_gate(resize: Any) -> None:
    sites = find_sites(Segmenting(resize), kinds=("stage",), input_size=(3, 16, 16))
    assert [(site.channels, site.size) for site in sites] == [(8, (16, 16)), (16, (8, 8))]
    # One convolution after the other, with nothing between them: the last is as good as any.
    sites = find_sites(Segmenting(resize, bent=False), kinds=("stage",), input_size=(3, 16, 16))
    assert [site.channels for site in sites] == [8, 4]
