"""The mixed and the stage rule on toy nets."""

from __future__ import annotations

import torch
import torchvision
from torch import nn

from attn_inject import find_sites, inject

from .. import toys


def test_outer_concat_of_an_inception_block_is_the_site() -> None:
    sites = find_sites(toys.inception(), input_size=(3, 16, 16))
    assert [(s.kind, s.block, s.channels) for s in sites] == [("mixed", "body", 24 + 8)]
    assert [s.reason for s in sites.skipped if s.operation == "concat"] == ["stands inside another block's branch: M6"]


def test_concat_inside_a_residual_branch_is_none() -> None:
    def run(m: toys.Lambda, x: torch.Tensor) -> torch.Tensor:
        return x + m.c(torch.cat([torch.relu(m.a(x)), torch.relu(m.b(x))], 1))

    body = toys.Lambda(run, a=toys.conv(16, 8, 1), b=toys.conv(16, 8), c=toys.conv(16, 16, 1))
    sites = find_sites(toys.Toy(body), input_size=(3, 16, 16))
    assert [s.kind for s in sites] == ["residual"]
    assert ["M6" in s.reason for s in sites.skipped] == [True]


def test_cross_stage_concat_is_none_but_its_block_is_a_site() -> None:
    sites = find_sites(toys.cross_stage(), input_size=(3, 16, 16))
    assert [(s.kind, s.block) for s in sites] == [("residual", "body.block")]
    assert any("cross-stage" in s.reason for s in sites.skipped)


def test_concat_along_another_axis_is_none() -> None:
    body = toys.Lambda(
        lambda m, x: torch.cat([torch.relu(m.a(x)), torch.relu(m.b(x))], 2), a=toys.conv(16, 16), b=toys.conv(16, 16)
    )
    assert list(find_sites(toys.Toy(body), input_size=(3, 16, 16))) == []


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
