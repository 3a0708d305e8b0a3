"""Plans and files of earlier versions name sites that the rules have refused since: they are found where they stood."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from attn_inject import PlanError, apply_plan, find_sites, load, make_plan, save
from attn_inject.types import Insertion, Plan, Site

from ..toys import conv


def _shuffled() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.shufflenet_v2_x0_5(weights=None).eval()


def _plan(*sites: Site) -> Plan:
    made = tuple(
        Insertion(site=site, module=f"{site.block}.eca".lstrip("."), attention="eca", channels=site.channels)
        for site in sites
    )
    return Plan(insertions=made, attention="eca", kinds=("mixed",), input_shape=(2, 3, 64, 64))


# What version 0.1 found in this network: the concats of its units of stride 2.
UNITS = [("stage2.0", 48, 8), ("stage3.0", 96, 4), ("stage4.0", 192, 2)]
SITES = [Site("mixed", block, 0, channels, (e, e), "channels_first", 3, "cat", "cat") for block, channels, e in UNITS]


@pytest.mark.slow
def test_a_file_that_gates_what_is_no_site_any_more_loads(tmp_path: Path) -> None:
    model = _shuffled()
    assert list(find_sites(model, input_size=64)) == []
    patched = apply_plan(model, _plan(*SITES))
    assert patched.injection.verification.passed
    assert {name for name, _ in patched.named_modules() if name.endswith(".eca")} == {f"{u}.eca" for u, _, _ in UNITS}
    save(patched, tmp_path / "old.safetensors")
    loaded = load(tmp_path / "old.safetensors", _shuffled())
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(x), patched(x))
    assert not torch.equal(patched(x), model(x))


@pytest.mark.parametrize("change", [{"channels": 50}, {"kind": "residual"}, {"block": "conv1"}], ids=str)
@pytest.mark.slow
def test_what_never_was_one_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="the model has no"):
        apply_plan(_shuffled(), _plan(replace(SITES[0], **change)))


class Turn(nn.Module):
    """Adds what came up from a smaller map, at every turn of a loop: a fusion, the innermost one too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.downs = nn.ModuleList(nn.Sequential(conv(8, 8, s=2), nn.ReLU()) for _ in range(2))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(8, 8, 2, 2) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = [self.stem(x)]
        for down in self.downs:
            kept.append(down(kept[-1]))
        x = kept.pop()
        for up in self.ups:
            x = kept.pop() + up(x)
        return x


def test_an_add_that_its_brothers_speak_against() -> None:
    model = Turn().eval()
    assert list(find_sites(model, input_size=16)) == []
    (site, _) = make_plan(nn.Sequential(_Residual(), _Residual()), "eca", input_size=16).insertions
    old = replace(site.site, block="", channels=8, size=(8, 8))
    plan = replace(_plan(old), kinds=("residual",), input_shape=(2, 3, 16, 16))
    patched = apply_plan(model, plan)
    x = torch.randn(1, 3, 16, 16)
    assert not torch.equal(patched.eval()(x), model(x))


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(conv(3, 3), nn.ReLU(), conv(3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.convs(x)
