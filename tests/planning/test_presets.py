"""Presets: the papers', timm's and the ECA authors' settings, and whose names the new modules get."""

from __future__ import annotations

from typing import Any

import pytest
import timm
from torch import nn

from attn_inject import PlanError, make_plan
from attn_inject.attention.registry import resolve
from attn_inject.planning.presets import PresetSettings, preset_settings
from attn_inject.types import Preset, Site, Sites


def _site(block: str, stage: int = 2, channels: int = 64) -> Site:
    return Site("residual", block, 0, channels, (8, 8), "channels_first", stage, "node", "join")


def _network(counts: tuple[int, ...], widths: tuple[int, ...], first: int = 2) -> Sites:
    """Sites of `counts[i]` blocks of `widths[i]` channels in stage `first + i`."""
    return Sites(
        tuple(
            _site(f"{stage}.{block}", stage, width)
            for stage, (count, width) in enumerate(zip(counts, widths, strict=True), first)
            for block in range(count)
        )
    )


def _settings(preset: Preset | None, attention: str, sites: Sites, **given: Any) -> PresetSettings:
    return preset_settings(preset, resolve(attention), sites, given, nn.Module())


BASIC, WIDE = (64, 128, 256, 512), (256, 512, 1024, 2048)


@pytest.mark.parametrize(
    ("counts", "widths", "kernels"),
    [
        ((2, 2, 2, 2), BASIC, (3, 5, 7, 7)),
        ((3, 4, 6, 3), BASIC, (3, 3, 5, 7)),
        ((3, 4, 6, 3), WIDE, (3, 5, 5, 7)),
        ((3, 4, 23, 3), WIDE, (3, 3, 5, 7)),
        ((3, 8, 36, 3), WIDE, (3, 3, 5, 7)),
    ],
)
def test_the_ecanet_kernels_of_a_resnet(
    counts: tuple[int, ...], widths: tuple[int, ...], kernels: tuple[int, ...]
) -> None:
    sites = _network(counts, widths)
    settings = _settings("ecanet", "eca", sites)
    assert [settings.for_site(site) for site in sites] == [
        {"k": kernel} for kernel, count in zip(kernels, counts, strict=True) for _ in range(count)
    ]
    assert settings.child_for(sites[0]) is None
    # The stages are counted from the lowest there is, in whatever order the sites come.
    turned = Sites((*sites[1:], sites[0]))
    if sites[0].channels == sites[-1].channels:
        assert _settings("ecanet", "eca", turned) == settings


@pytest.mark.parametrize(
    ("counts", "widths"),
    [
        ((1, 2, 3, 7, 4), (16, 24, 32, 95, 320)),
        ((1, 2, 5, 2), (24, 32, 96, 160)),
    ],
)
def test_the_ecanet_kernels_of_mobilenet_v2(counts: tuple[int, ...], widths: tuple[int, ...]) -> None:
    sites = _network(counts, widths)
    settings = _settings("ecanet", "eca", sites)
    assert [settings.for_site(site)["k"] for site in sites] == [1 if site.channels < 96 else 3 for site in sites]
    assert {site.channels: settings.for_site(site) for site in sites}[widths[-1]] == {"k": 3}


@pytest.mark.parametrize(
    ("counts", "widths"), [((2, 2, 2, 2), WIDE), ((3, 4, 6, 3), (64, 128, 256, 511)), ((2, 2, 2), BASIC[:3])]
)
def test_ecanet_for_a_network_the_authors_never_set(counts: tuple[int, ...], widths: tuple[int, ...]) -> None:
    sites = _network(counts, widths)
    with pytest.raises(PlanError) as caught:
        _settings("ecanet", "eca", sites)
    assert str(caught.value) == (
        f"preset ecanet knows ResNet-18/34/50/101/152 and MobileNetV2, not a network with {counts} blocks: "
        "give k, or stage_options with a k for each stage"
    )
    # The caller's own kernel size serves every network.
    assert _settings("ecanet", "eca", sites, k=3) == PresetSettings()
    assert _settings("ecanet", "eca", _network((2, 2, 2, 2), BASIC), k=3) == PresetSettings()


@pytest.mark.parametrize("given", [{}, {"k": 3}])
def test_ecanet_is_for_eca(given: dict[str, Any]) -> None:
    with pytest.raises(PlanError) as caught:
        _settings("ecanet", "se", _network((2, 2, 2, 2), BASIC), **given)
    assert str(caught.value) == "preset ecanet sets ECA's kernel sizes, and the attention is se"


@pytest.mark.parametrize("preset", [None, "paper"])
@pytest.mark.parametrize("attention", ["se", "eca"])
def test_the_papers_own_settings_are_the_modules_defaults(preset: Preset | None, attention: str) -> None:
    assert _settings(preset, attention, _network((2, 2, 2, 2), BASIC)) == PresetSettings()


def _block(**held: Any) -> nn.Module:
    block = nn.Module()
    for name, value in held.items():
        setattr(block, name, value)
    return block


def _timm(attention: str, given: dict[str, Any], **blocks: nn.Module) -> tuple[PresetSettings, Sites]:
    sites = Sites(tuple(_site(name) for name in blocks))
    return preset_settings("timm", resolve(attention), sites, given, nn.ModuleDict(blocks)), sites


@pytest.mark.parametrize(
    ("attention", "given", "options"),
    [
        ("se", {}, {"form": "conv", "bias": True, "divisor": 8}),
        ("se", {"bias": False}, {"form": "conv", "divisor": 8}),
        ("se", {"form": "linear", "divisor": 1, "reduction": 4}, {"bias": True}),
        ("eca", {}, {}),
    ],
)
def test_timms_options_for_se(attention: str, given: dict[str, Any], options: dict[str, Any]) -> None:
    settings, sites = _timm(attention, given, a=_block())
    assert settings.for_site(sites[0]) == options


class _Gate(nn.Identity):
    pass


@pytest.mark.parametrize(
    ("name", "held", "child"),
    [
        ("a", {}, "se"),
        ("a", {"attn": None}, "attn"),
        ("a", {"attn": nn.Identity()}, "attn"),
        ("a", {"attn": _Gate()}, "se"),
        ("a", {"attn": nn.ReLU(), "attn_last": None}, "attn_last"),
        ("a", {"attn": None, "se": None}, "se"),
        ("a", {"attn": None, "se": nn.ReLU()}, "attn"),
        ("a", {"se": None, "attn3": None}, "attn3"),
        ("a", {"attn3": None, "attn_last": None}, "attn_last"),
        ("a", {"attn2": None}, "se"),
        # What stands in such a place hands its own name on.
        ("attn", {}, "attn"),
        ("attn_last", {"se": None}, "attn_last"),
        ("se", {"attn": None}, "se"),
        ("attn3", {"attn": None}, "attn3"),
        ("attn2", {"attn": None}, "attn"),
    ],
)
def test_the_place_that_a_block_of_timms_keeps(name: str, held: dict[str, Any], child: str) -> None:
    settings, sites = _timm("eca", {}, **{name: _block(**held)})
    assert settings.child_for(sites[0]) == child
    assert settings.child_for(_site("somewhere.else")) == "se"
    nested = preset_settings(
        "timm",
        resolve("eca"),
        Sites((_site(f"attn.{name}"),)),
        {},
        nn.ModuleDict({"attn": nn.ModuleDict({name: _block(**held)})}),
    )
    assert nested.child_for(_site(f"attn.{name}")) == child


@pytest.mark.parametrize(
    ("attention", "given", "gains"),
    [
        ("eca", {}, [{"gain": 2.0}, {}]),
        ("se-var1", {}, [{}, {}]),
        ("eca", {"gain": 1.0}, [{}, {}]),
        ("eca", {"k": 3}, [{"gain": 2.0}, {}]),
    ],
)
def test_the_gain_of_timms_norm_free_blocks(
    attention: str, given: dict[str, Any], gains: list[dict[str, float]]
) -> None:
    settings, sites = _timm(attention, given, a=_block(attn_gain=2.0), b=_block())
    assert [settings.for_site(site) for site in sites] == gains


def test_a_block_has_its_own_option_and_name_before_the_general_ones() -> None:
    settings = PresetSettings({"a": 1, "b": 1}, {"x": {"b": 2}}, "one", {"x": "two"})
    assert (settings.for_site(_site("x")), settings.child_for(_site("x"))) == ({"a": 1, "b": 2}, "two")
    assert (settings.for_site(_site("y")), settings.child_for(_site("y"))) == ({"a": 1, "b": 1}, "one")
    assert (PresetSettings().for_site(_site("x")), PresetSettings().child_for(_site("x"))) == ({}, None)


def test_a_timm_resnet_gets_its_attention_under_timms_name() -> None:
    plan = make_plan(timm.create_model("resnet18"), "se", preset="timm", input_size=(3, 32, 32), stages=2)
    assert [(i.module, dict(i.options)) for i in plan.insertions] == [
        (f"layer1.{i}.se", {"form": "conv", "bias": True, "divisor": 8}) for i in (0, 1)
    ]
