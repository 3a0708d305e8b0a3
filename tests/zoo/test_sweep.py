"""Every CNN of both zoos traces in both modes, and its residual sites are those that the oracle sees."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from attn_inject import AttentionError, find_sites
from attn_inject.attention.catalogue import catalogue
from attn_inject.attention.registry import build
from attn_inject.planning.choices import Choices
from attn_inject.planning.plan import plan_for
from attn_inject.sites.reading import read

from .sweep import Row
from .sweep import build as build_model

pytestmark = pytest.mark.zoo

# Where the two differ, why ours is right, and the two numbers of sites. Anything else is a failure.
DIFFERENT = {
    "adds maps of two resolutions (R6), which the oracle does not ask about": {
        (10, 11): ["torchvision:lraspp_mobilenet_v3_large"],
    },
    "combines sums in cells (R7)": {(0, 26): ["timm:nasnetalarge"], (0, 42): ["timm:pnasnet5large"]},
    "adds attention heads, not maps: the oracle looks at rank 4 only": {
        (0, 24): ["timm:mvitv2_base", "timm:mvitv2_base_cls"],
        (0, 80): ["timm:mvitv2_huge_cls"],
        (0, 48): ["timm:mvitv2_large", "timm:mvitv2_large_cls"],
        (0, 16): ["timm:mvitv2_small", "timm:mvitv2_small_cls"],
        (0, 10): ["timm:mvitv2_tiny"],
    },
    "its transformer cannot be traced into, and works on unfolded tokens": {
        (1, 19): [f"timm:mobilevitv2_{width}" for width in ("050", "075", "100", "125", "150", "175", "200")],
    },
    "the branch's only convolution is that of a query shared by many blocks": {
        (11, 15): [f"timm:gcvit_{size}" for size in ("base", "small", "tiny", "xtiny", "xxtiny")],
    },
    "the shortcut is a slice, where the oracle starts afresh": {
        (16, 0): ["timm:dpn48b"],
        (22, 0): ["timm:dpn68", "timm:dpn68b"],
        (30, 0): ["timm:dpn92"],
        (32, 0): ["timm:dpn98"],
        (35, 0): ["timm:dpn107"],
        (43, 0): ["timm:dpn131"],
    },
    "the branch is f(x) - x, of which x is an affine ancestor": {
        (12, 0): [f"timm:efficientvim_{size}" for size in ("m1", "m1_dist", "m2", "m2_dist", "m3", "m3_dist")],
        (18, 0): ["timm:efficientvim_m4", "timm:efficientvim_m4_dist"],
    },
}
# Every CNN family that has at least this many members traced; a sweep that silently lost its models would fail here.
_LEAST = 700
_LEAST_WIDTHS = 200


def test_every_cnn_traces(rows: list[Row]) -> None:
    assert len(rows) >= _LEAST
    assert {row.name: row.error for row in rows if row.error} == {}


def test_sites_are_those_of_the_oracle(rows: list[Row]) -> None:
    known = {name: counts for group in DIFFERENT.values() for counts, names in group.items() for name in names}
    differing = {row.name: (row.residual, row.oracle) for row in rows if row.extra or row.missing}
    assert differing == known


def test_every_attention_of_the_catalogue_goes_into_every_network(rows: list[Row]) -> None:
    """With its defaults. A module depends on a site's channels and axes alone, so each pair of these is tried once."""
    widths = {width for row in rows for width in row.widths}
    assert len(widths) >= _LEAST_WIDTHS
    with torch.device("meta"):
        for entry in catalogue():
            for channels, ndim in widths:
                if ndim in entry.axes:
                    assert isinstance(build(entry.name, channels, ndim=ndim), nn.Module)
                else:
                    with pytest.raises(AttentionError, match="maps of 2 (spatial )?axes"):
                        build(entry.name, channels, ndim=ndim)
    # A reduction that all sites of a network are too narrow for would be refused: SE's 16 is met in each.
    assert {row.name: row.widths for row in rows if row.widths and max(row.widths)[0] < 16} == {}


@pytest.mark.parametrize("network", ["ghostnet_050", "rexnet_100", "convnext_atto"])
def test_plans_for_the_narrowest_and_the_oddest(network: str) -> None:
    """A GhostNet of 8 channels, widths such as 27 and 61, and maps laid out with the channels last."""
    model = build_model(f"timm:{network}")
    # Halo attention cuts maps into blocks of 8, which 224 pixels are not made of.
    usual, in_eighths = read(model), read(model, input_size=256)
    with pytest.raises(
        AttentionError, match=r"halo: timm:halo does not run on the map 2x\d+x\d+x\d+ there: AssertionError;"
    ):
        plan_for(usual, Choices(attention="timm:halo"))
    for attention in [entry.name for entry in catalogue() if 2 in entry.axes]:
        located = in_eighths if attention == "timm:halo" else usual
        plan = plan_for(located, Choices(attention=attention))
        assert len(plan.insertions) == len(located.sites)
        fitted = any(getattr(build(attention, site.channels), "adjustments", ()) for site in located.sites)
        said = any(
            note.startswith(f"{attention}: ") and f" of {len(located.sites)} sites " in note for note in plan.notes
        )
        assert said == fitted, (attention, plan.notes)


@pytest.mark.parametrize("name", [n for n in torchvision.models.list_models() if n.startswith("quantized_")])
def test_quantizable_networks_have_the_sites_of_their_float_twins(name: str) -> None:
    """Their adds are `FloatFunctional`s, and their layers are made for fusing."""
    with torch.device("meta"):
        quantizable = torchvision.models.get_model(name, quantize=False)
        plain = torchvision.models.get_model(name.removeprefix("quantized_"))
    ours, twins = find_sites(quantizable), find_sites(plain)
    assert [(s.kind, s.block, s.channels, s.size) for s in ours] == [
        (s.kind, s.block, s.channels, s.size) for s in twins
    ]
    # The units of a ShuffleNetV2 are no blocks: most hand half of their input through.
    assert bool(ours) == ("shufflenet" not in name)
