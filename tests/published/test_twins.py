"""timm's own attended networks: their weights load strictly into ours, and the outputs are the same.

A pair is a plain network of timm and an attended one that, with its attention taken out, computes what the plain one
does. `TWINS` has those whose gate stands at the end of the branch: preset `timm` makes them out of the plain network.
`INSIDE` has the others, where timm gates in the middle of the branch, for which there is no placement. A sweep over all
of timm finds the pairs by rule, so that no table is short of one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache

import pytest
import timm
import torch
import torchvision
from torch import nn

from attn_inject import find_sites, inject
from attn_inject.attention.registry import resolve
from attn_inject.planning.presets import preset_settings

from ..by_hand import by_hand

# Each runs what other tests run already, many times over: measuring what it covers takes as long as running it.
pytestmark = pytest.mark.no_cover

# Attended network: (plain network, attention).
TWINS = {
    "seresnet18": ("resnet18", "se"),
    "seresnet34": ("resnet34", "se"),
    "seresnet50": ("resnet50", "se"),
    "ecaresnet26t": ("resnet26t", "eca"),
    "ecaresnet50d": ("resnet50d", "eca"),
    "nf_seresnet26": ("nf_resnet26", "se"),
    "nf_ecaresnet26": ("nf_resnet26", "eca"),
}
LARGE = {
    "seresnet50t": ("resnet50t", "se"),
    "seresnetaa50d": ("resnetaa50d", "se"),
    "seresnext50_32x4d": ("resnext50_32x4d", "se"),
    "ecaresnet50t": ("resnet50t", "eca"),
    "seresnet101": ("resnet101", "se"),
    "seresnet152": ("resnet152", "se"),
    "seresnet152d": ("resnet152d", "se"),
    "seresnet200d": ("resnet200d", "se"),
    "seresnext101_32x4d": ("resnext101_32x4d", "se"),
    "seresnext101_32x8d": ("resnext101_32x8d", "se"),
    "seresnext101_64x4d": ("resnext101_64x4d", "se"),
    "ecaresnet101d": ("resnet101d", "eca"),
    "ecaresnet200d": ("resnet200d", "eca"),
    "nf_seresnet50": ("nf_resnet50", "se"),
    "nf_seresnet101": ("nf_resnet101", "se"),
    "nf_ecaresnet50": ("nf_resnet50", "eca"),
    "nf_ecaresnet101": ("nf_resnet101", "eca"),
}
# By hand: the same code as another of them, deeper or wider.
MORE = {
    "seresnet152", "seresnet152d", "seresnet200d", "seresnext101_32x8d", "seresnext101_64x4d", "ecaresnet200d",
    "nf_seresnet101", "nf_ecaresnet101",
    "regnety_120", "eca_resnet33ts", "gcresnet33ts", "seresnext26ts", "eca_resnext26ts", "cs3sedarknet_x",
    "cs3se_edgenet_x",
}  # fmt: skip
# Gated after the norm and activation of the spatial convolution (RegNet, byobnet), or between a block's two
# convolutions (DarkNet): (plain, attended).
INSIDE = {
    ("regnetx_002", "regnety_002"),
    ("regnetx_120", "regnety_120"),
    ("resnet33ts", "seresnet33ts"),
    ("resnet33ts", "eca_resnet33ts"),
    ("resnet33ts", "gcresnet33ts"),
    ("resnext26ts", "seresnext26ts"),
    ("resnext26ts", "eca_resnext26ts"),
    ("resnext26ts", "gcresnext26ts"),
    ("resnext26ts", "bat_resnext26ts"),
    ("darknet21", "sedarknet21"),
    ("cs3darknet_l", "cs3sedarknet_l"),
    ("cs3darknet_x", "cs3sedarknet_x"),
    ("cs3edgenet_x", "cs3se_edgenet_x"),
}


def _shaken(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """With norms, gains and whatever starts at zero moved, which at the end of a branch would hide every gate, and with
    statistics that fit the input, so that eval outputs are of a size that a difference shows in."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
        for name, parameter in model.named_parameters():
            if name.endswith("gain") or not parameter.any():
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
        for _ in range(2):
            model.train()(x)
    return model


def _differences(ours: nn.Module, theirs: nn.Module, x: torch.Tensor) -> list[float]:
    """The largest difference of outputs in eval and in train mode, seeded alike."""
    found = []
    for mode in (False, True):
        torch.manual_seed(1)
        a = ours.train(mode)(x)
        torch.manual_seed(1)
        b = theirs.train(mode)(x)
        assert b.std() > 0.01
        found.append(float((a - b).detach().abs().max()))
    return found


def _input(size: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))


def _check(twin: str, ours: nn.Module) -> None:
    theirs = _shaken(timm.create_model(twin), x := _input())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert max(_differences(ours, theirs, x)) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("twin", TWINS)
def test_strict_loading_and_equal_outputs(twin: str) -> None:
    plain, attention = TWINS[twin]
    _check(twin, inject(timm.create_model(plain), attention, preset="timm"))


@pytest.mark.zoo
@pytest.mark.parametrize("twin", by_hand(LARGE, lambda twin: twin in MORE))
def test_large_ones_too(twin: str) -> None:
    plain, attention = LARGE[twin]
    _check(twin, inject(timm.create_model(plain), attention, preset="timm"))


@pytest.mark.parametrize(
    ("plain", "twin"),
    [
        ("resnet18", "seresnet18"),
        ("resnet50", "seresnet50"),
        pytest.param("resnext50_32x4d", "seresnext50_32x4d", marks=pytest.mark.zoo),
    ],
)
@pytest.mark.slow
def test_torchvisions_networks_take_timms_weights(plain: str, twin: str) -> None:
    """They have the same names and the same strides."""
    _check(twin, inject(torchvision.models.get_model(plain), "se", preset="timm"))


# With attention already in the network, its successor stands where it stood, inside a branch too:
# (attended network, attended network, attention).
SWAPPED = [
    pytest.param("seresnet50t", "ecaresnet50t", "eca", marks=pytest.mark.zoo),
    pytest.param("ecaresnet50t", "seresnet50t", "se", marks=pytest.mark.zoo),
    ("seresnet33ts", "eca_resnet33ts", "eca"),
    pytest.param("seresnet33ts", "gcresnet33ts", "timm:gca", marks=pytest.mark.zoo),
    pytest.param("seresnext26ts", "eca_resnext26ts", "eca", marks=pytest.mark.zoo),
    pytest.param("seresnext26ts", "gcresnext26ts", "timm:gca", marks=pytest.mark.zoo),
    ("nf_seresnet26", "nf_ecaresnet26", "eca"),
    pytest.param("ese_vovnet39b", "eca_vovnet39b", "eca", marks=pytest.mark.zoo),
]


@pytest.mark.slow
@pytest.mark.parametrize(("attended", "twin", "attention"), SWAPPED)
def test_one_attention_for_another(attended: str, twin: str, attention: str) -> None:
    model = timm.create_model(attended)
    _check(twin, inject(model, attention, existing="replace", kinds=("attention",), preset="timm"))


@pytest.mark.parametrize(
    ("plain", "attended"),
    [
        ("resnet18", "seresnet18"),
        pytest.param("resnet33ts", "seresnet33ts", marks=pytest.mark.zoo),
        ("regnetx_002", "regnety_002"),
        pytest.param("darknet21", "sedarknet21", marks=pytest.mark.zoo),
        pytest.param("resnet26t", "ecaresnet26t", marks=pytest.mark.zoo),
    ],
)
def test_without_its_attention_a_network_is_the_plain_one(plain: str, attended: str) -> None:
    model = timm.create_model(attended)
    stripped = inject(_shaken(model, x := _input()), "none", existing="replace")
    theirs = timm.create_model(plain)
    theirs.load_state_dict(stripped.state_dict(), strict=True)
    assert max(_differences(stripped, theirs, x)) <= 1e-6
    assert min(_differences(stripped, model, x)) > 1e-3


@pytest.mark.slow
def test_the_comparison_can_fail() -> None:
    """A network of the same names and shapes that blurs before it strides, and a gain left out."""
    for twin, plain, options in (
        ("seresnet18", "resnetblur18", {}),
        ("nf_seresnet26", "nf_resnet26", {"gain": 1.0}),
    ):
        theirs = _shaken(timm.create_model(twin), x := _input())
        ours = inject(timm.create_model(plain), "se", preset="timm", **options)
        ours.load_state_dict(theirs.state_dict(), strict=True)
        assert min(_differences(ours, theirs, x)) > 1e-2


@pytest.mark.parametrize(
    ("plain", "child", "gain"),
    [("resnet18", "se", None), ("nf_resnet26", "attn_last", 2.0), ("resnet33ts", "attn_last", None)],
)
def test_the_place_that_a_block_keeps_for_attention(plain: str, child: str, gain: float | None) -> None:
    model = timm.create_model(plain)
    sites = find_sites(model)
    settings = preset_settings("timm", resolve("se"), sites, {}, model)
    assert {settings.child_for(site) for site in sites} == {child}
    assert {settings.for_site(site).get("gain") for site in sites} == {gain}


# What follows enumerates timm.


@cache
def _shapes(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = timm.create_model(name)
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def _prefixes(keys: dict[str, tuple[int, ...]]) -> set[str]:
    return {key.rsplit(".", depth)[0] for key in keys for depth in range(1, key.count(".") + 1)}


def _added(plain: str, attended: str) -> set[str]:
    """The modules that `attended` has beyond `plain`, children of modules that both have; none if it differs more."""
    a, b = _shapes(plain), _shapes(attended)
    if len(a) >= len(b) or not a.items() <= b.items():
        return set()
    known, new = _prefixes(a), set()
    for key in b.keys() - a.keys():
        parts = key.split(".")
        paths = [".".join(parts[:end]) for end in range(1, len(parts))]
        path = next((path for path in paths if path not in known), "")
        # A new number is a new block, and a new top-level module a new head.
        if "." not in path or path.rpartition(".")[2].isdigit():
            return set()
        new.add(path)
    return new


def _attention_classes() -> tuple[type, ...]:
    from timm.layers.create_attn import get_attn
    from timm.models._efficientnet_blocks import SqueezeExcite

    from attn_inject.attention.timm_made import _all_names

    made = [get_attn(name) for name in _all_names()]
    return (SqueezeExcite, *dict.fromkeys(getattr(cls, "func", cls) for cls in made))


def _same_without(plain: str, attended: str, added: set[str]) -> bool:
    """Whether the attended network, its attention made an identity by hand, computes what the plain one does."""
    x = _input(96)
    theirs = timm.create_model(attended)
    for path in added:
        home, _, child = path.rpartition(".")
        setattr(theirs.get_submodule(home), child, nn.Identity())
    for module in theirs.modules():
        if hasattr(module, "attn_gain"):
            module.attn_gain = 1.0  # type: ignore[assignment]
    theirs = _shaken(theirs, x)
    ours = timm.create_model(plain)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return max(_differences(ours, theirs, x)) <= 1e-6


def _candidates(names: list[str]) -> Iterator[tuple[str, str, set[str]]]:
    classes = _attention_classes()
    for attended in names:
        for plain in names:
            if added := _added(plain, attended):
                with torch.device("meta"):
                    model = timm.create_model(attended)
                if all(isinstance(model.get_submodule(path), classes) for path in added):
                    yield plain, attended, added


@pytest.mark.bench  # a quarter of an hour, and only a new release of timm changes it
def test_no_pair_is_missing() -> None:
    """Every network of timm against every other: names and shapes first, then what they compute."""
    found = {(a, b) for a, b, added in _candidates(timm.list_models()) if _same_without(a, b, added)}
    assert found == {(plain, twin) for twin, (plain, _) in (TWINS | LARGE).items()} | INSIDE


# timm's class: our name for it, options, and an extent that its blocks divide.
CLASSES: dict[str, tuple[str, dict[str, object], int]] = {
    "SEModule": ("timm:se", {}, 96),
    "EcaModule": ("timm:eca", {}, 96),
    "GlobalContext": ("timm:gca", {}, 96),
    "BatNonLocalAttn": ("timm:bat", {"block_size": 8}, 256),
}


@pytest.mark.zoo
@pytest.mark.parametrize(("plain", "twin"), by_hand(sorted(INSIDE), lambda pair: pair[1] in MORE))
def test_no_placement_makes_those_gated_inside(plain: str, twin: str) -> None:
    """Once one does, its pairs belong into the table of twins."""
    kept = timm.create_model(twin)
    path = min(_added(plain, twin))
    attention, options, size = CLASSES[type(kept.get_submodule(path)).__name__]
    theirs = _shaken(kept, x := _input(size))
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    for placement in ("standard", "pre", "post", "identity", "conv3x3"):
        settings = {"name": path.rpartition(".")[2], "input_size": (3, 256, 256), **options}
        ours = inject(timm.create_model(plain), attention, preset="timm", placement=placement, **settings)
        if {key: tensor.shape for key, tensor in ours.state_dict().items()} == shapes:
            ours.load_state_dict(theirs.state_dict(), strict=True)
            assert min(_differences(ours, theirs, x)) > 1e-3
