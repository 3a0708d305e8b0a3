"""Presets: whose settings to use where the caller gives none.

`paper` is each module's own default. `timm` gives the widths, biases, forms and names of timm's attention models, so
that their weights load strictly. `ecanet` gives the kernel sizes that ECA's authors set by hand for each stage of a
ResNet, and for MobileNetV2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..attention.base import Attention
from ..errors import PlanError
from ..types import Preset, Site, Sites

# The authors' published kernel sizes (ECA-Net repository, and the parameter counts of the paper's Table 3), by the
# number of blocks in each stage and whether the blocks are bottlenecks (four times wider at the end: 2048 channels,
# not 512).
_ECANET_KERNELS: dict[tuple[tuple[int, ...], int], tuple[int, ...]] = {
    ((2, 2, 2, 2), 512): (3, 5, 7, 7),
    ((3, 4, 6, 3), 512): (3, 3, 5, 7),
    ((3, 4, 6, 3), 2048): (3, 5, 5, 7),
    ((3, 4, 23, 3), 2048): (3, 3, 5, 7),
    ((3, 8, 36, 3), 2048): (3, 3, 5, 7),
}
# Their MobileNetV2: no neighbours below 96 channels, three from there on; all 17 blocks, or the ten with a skip add.
_ECANET_WIDTHS = {((1, 2, 3, 7, 4), 320): 96, ((1, 2, 5, 2), 160): 96}
_TIMM_SE = {"form": "conv", "bias": True, "divisor": 8}
# Under which names timm's blocks keep a place, None or an `Identity`, for attention at the end of their branch.
_TIMM_PLACES = ("attn_last", "attn3", "se", "attn")


@dataclass(frozen=True)
class PresetSettings:
    """Options that a preset sets, and the names it gives the new modules: for all sites, and for single blocks."""

    options: Mapping[str, Any] = field(default_factory=dict)
    by_block: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    child: str | None = None
    child_by_block: Mapping[str, str] = field(default_factory=dict)

    def for_site(self, site: Site) -> dict[str, Any]:
        return {**self.options, **self.by_block.get(site.block, {})}

    def child_for(self, site: Site) -> str | None:
        return self.child_by_block.get(site.block, self.child)


def preset_settings(
    preset: Preset | None,
    attention: Attention,
    sites: Sites,
    given: Mapping[str, Any],
    root: nn.Module,
) -> PresetSettings:
    """The settings of `preset` for `attention`; options the caller gave win.

    `root` is the network, where `timm` looks what its blocks have prepared for attention.

    Raises:
        PlanError: `ecanet` for another attention than ECA, or for a network whose kernel sizes the authors never set.

    """
    if preset in (None, "paper"):
        return PresetSettings()
    if preset == "timm":
        own = _TIMM_SE if attention.name == "se" else {}
        blocks = {site.block: root.get_submodule(site.block) for site in sites}
        gains = {path: {"gain": block.attn_gain} for path, block in blocks.items() if hasattr(block, "attn_gain")}
        return PresetSettings(
            {k: v for k, v in own.items() if k not in given},
            by_block=gains if "gain" in attention.options and "gain" not in given else {},
            child="se",
            child_by_block={path: _timm_place(path, block) for path, block in blocks.items()},
        )
    if attention.name != "eca":
        raise PlanError(f"preset ecanet sets ECA's kernel sizes, and the attention is {attention.name}")
    if "k" in given:
        return PresetSettings()
    counts = Counter(site.stage for site in sites)
    stages = sorted(counts)
    shape = (tuple(counts[stage] for stage in stages), sites[-1].channels)
    if shape in _ECANET_KERNELS:
        by_stage = dict(zip(stages, _ECANET_KERNELS[shape], strict=True))
        return PresetSettings(by_block={site.block: {"k": by_stage[site.stage]} for site in sites})
    if shape in _ECANET_WIDTHS:
        return PresetSettings(
            by_block={site.block: {"k": 1 if site.channels < _ECANET_WIDTHS[shape] else 3} for site in sites}
        )
    raise PlanError(
        f"preset ecanet knows ResNet-18/34/50/101/152 and MobileNetV2, not a network with {shape[0]} blocks: "
        "give k, or stage_options with a k for each stage"
    )


def _timm_place(path: str, block: nn.Module) -> str:
    """The name under which a block of timm's keeps a place for attention at its end; `se` where it keeps none.

    What stands in such a place already (existing="replace") hands its own name on.
    """
    if (name := path.rpartition(".")[2]) in _TIMM_PLACES:
        return name
    missing = object()
    held = {name: getattr(block, name, missing) for name in _TIMM_PLACES}
    return next((name for name, value in held.items() if value is None or type(value) is nn.Identity), "se")
