"""Parameter counts of FACTS: counted on the authors' networks, or published; on the meta device."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from attn_inject import inject
from attn_inject.planning.recipe import load_recipe
from attn_inject.zoo.building import build
from attn_inject.zoo.parsing import parse_source

# Each runs what other tests run already, many times over: measuring what it covers takes as long as running it.
pytestmark = pytest.mark.no_cover


def _tv(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return torchvision.models.get_model(name, **options)


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_plain_networks() -> None:
    """As counted; the figures below are differences to these."""
    assert _count(_tv("resnet50")) == 25_557_032
    with torch.device("meta"):
        assert _count(timm.create_model("resnet50")) == 25_557_032
        assert _count(timm.create_model("resnet50d")) == 25_576_264


@pytest.mark.parametrize(
    ("reduction", "count"), [(16, 28_071_976), (2, 45_676_584), (4, 35_616_808), (8, 30_586_920), (32, 26_814_504)]
)
@pytest.mark.slow
def test_se_resnet50(reduction: int, count: int) -> None:
    """SE paper, Table 10: 28.1, 45.7, 35.7, 30.7, 26.9 M."""
    assert _count(inject(_tv("resnet50"), "se", reduction=reduction)) == count


@pytest.mark.parametrize(("stage", "blocks", "width"), [(2, 3, 256), (3, 4, 512), (4, 6, 1024)])
def test_se_in_one_stage(stage: int, blocks: int, width: int) -> None:
    """In closed form. SE paper, Table 13 prints 25.6, 25.7 and 26.4 M; the last is 26.34 M here, why is unknown."""
    added = blocks * 2 * width * width // 16
    count = _count(inject(_tv("resnet50"), "se", stages=stage))
    assert count == 25_557_032 + added
    assert round(count / 1e6, 1) == {2: 25.6, 3: 25.7, 4: 26.3}[stage]


@pytest.mark.parametrize(
    ("name", "adaptive", "authors", "three"),
    [
        ("resnet18", None, 44, 24),
        ("resnet34", None, 72, 48),
        ("resnet50", 86, 80, 48),
        pytest.param("resnet101", 171, 157, 99, marks=pytest.mark.zoo),
        pytest.param("resnet152", 256, 234, 150, marks=pytest.mark.zoo),
    ],
)
@pytest.mark.slow
def test_eca(name: str, adaptive: int | None, authors: int, three: int) -> None:
    """ECA paper, Table 3, and its code's kernel sizes."""
    plain = _count(_tv(name))
    if adaptive is not None:
        assert _count(inject(_tv(name), "eca")) == plain + adaptive
    assert _count(inject(_tv(name), "eca", preset="ecanet")) == plain + authors
    assert _count(inject(_tv(name), "eca", k=3)) == plain + three


def test_ecas_kernel_sizes_by_stage() -> None:
    """Adaptive: 5, 5, 5, 7 (FACTS); the authors' own: 3, 5, 5, 7."""
    for options, wanted in (({}, (5, 5, 5, 7)), ({"preset": "ecanet"}, (3, 5, 5, 7))):
        patched = inject(_tv("resnet50"), "eca", **options)
        found: set[Any] = {(i.site.stage, patched.get_submodule(i.module).k) for i in patched.injection.plan.insertions}
        assert found == set(zip((2, 3, 4, 5), wanted, strict=True))


def test_se_with_bias_is_timms() -> None:
    with torch.device("meta"):
        plain = timm.create_model("resnet50")
        assert (
            _count(inject(plain, "se", bias=True, divisor=8)) == _count(timm.create_model("seresnet50")) == 28_088_024
        )
        plain = timm.create_model("resnet50d")
        assert _count(inject(plain, "eca")) == _count(timm.create_model("ecaresnet50d")) == 25_576_350


@pytest.mark.parametrize(("name", "count"), [("resnet50", 22_561_715), ("resnet101", 38_900_279)])
def test_epsanet_small(name: str, count: int) -> None:
    """EPSANet README: 22.56 and 38.90 M."""
    assert _count(inject(_tv(name), "psa", placement="replace")) == count
    assert round(count / 1e6, 2) == {"resnet50": 22.56, "resnet101": 38.90}[name]


@pytest.mark.parametrize(("name", "count"), [("resnet50", 27_899_518), ("resnet101", 49_592_198)])
def test_epsanet_large(name: str, count: int) -> None:
    """EPSANet README: 27.90 and 49.59 M, with groups of 32 and kernels 3, 5, 5, 7."""
    wide = _tv(name, width_per_group=128)
    patched = inject(wide, "psa", placement="replace", groups=[32, 32, 32, 32], kernels=[3, 5, 5, 7])
    assert _count(patched) == count
    assert round(count / 1e6, 2) == {"resnet50": 27.90, "resnet101": 49.59}[name]


def test_epsanet_large_with_the_papers_kernels_misses_the_readme() -> None:
    """30.10 M with kernels 3, 5, 7, 9, where the README has 27.90 M: the authors' code uses 3, 5, 5, 7."""
    patched = inject(_tv("resnet50", width_per_group=128), "psa", placement="replace", groups=[32, 32, 32, 32])
    assert round(_count(patched) / 1e6, 2) == 30.10


def test_psa_before_the_add_warns() -> None:
    patched = inject(_tv("resnet50"), "psa")
    (note,) = patched.injection.plan.notes
    assert "27.76 M at layer4.2.psa alone" in note
    assert "placement 'replace'" in note


# He et al., arXiv 1512.03385, Table 6: 0.27, 0.46 and 0.85 M, norms included.
CIFAR = {20: 0.27, 32: 0.46, 56: 0.85}


@pytest.mark.parametrize("depth", CIFAR)
@pytest.mark.parametrize("preact", [False, True])
@pytest.mark.slow
def test_cifar_se_resnets_in_closed_form(depth: int, preact: bool) -> None:
    """6n + 2 layers: a stem, three stages of n blocks of two 3x3 convolutions, and a classifier; no projections."""
    n = (depth - 2) // 6
    plain = 9 * 3 * 16 + 64 * 10 + 10
    se = 0
    for before, width in ((16, 16), (16, 32), (32, 64)):
        plain += 9 * before * width + (2 * n - 1) * 9 * width * width
        # Two norms a block, of a weight and a bias each; pre-activated, the first one is as wide as what comes in.
        plain += 2 * n * 2 * width - (2 * (width - before) if preact else 0)
        se += n * 2 * width * (width // 16)
    # One more norm, after the stem or, pre-activated, before the classifier.
    plain += 2 * (64 if preact else 16)
    name = f"{'preact' if preact else ''}resnet{depth}"
    model = build(parse_source(f"cifar:{name}"))
    assert _count(model) == plain
    assert round(plain / 1e6, 2) == CIFAR[depth]
    patched = inject(model, "se", input_size=(3, 32, 32))
    assert _count(patched) == plain + se
    assert len(patched.injection.plan.insertions) == 3 * n
    recipe = load_recipe(f"se-{name}-cifar")
    assert (recipe.expect_sites, recipe.expect_parameters) == (3 * n, plain + se)
