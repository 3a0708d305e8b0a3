"""The catalogue: what the modules themselves have, kept on disk until their code changes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.layers.create_attn import create_attn
from torch import nn
from torch.nn.utils import prune

from attn_inject import AttentionError, register_attention
from attn_inject.attention import catalogue as home
from attn_inject.attention.catalogue import FAMILIES, NOT_EXPORTED, catalogue
from attn_inject.attention.gating import ChannelGate
from attn_inject.attention.registry import build, library_names, resolve
from attn_inject.attention.timm_made import timm_names

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)


def test_every_attention_is_there_with_what_its_module_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTN_INJECT_CACHE", str(tmp_path))
    register_attention("here-only", nn.Conv2d)
    entries = {entry.name: entry for entry in catalogue()}
    assert set(entries) == {*library_names(), *(f"timm:{name}" for name in timm_names())}
    assert entries["se"].parameters == 2 * 256 * 16
    assert entries["eca"].parameters == 5
    assert entries["se-var3"].parameters == 256 * 256
    for name in library_names():
        entry, attention = entries[name], resolve(name)
        assert entry.family in FAMILIES
        assert (entry.family, entry.year, entry.paper) == (attention.family, attention.year, attention.paper)
        assert entry.summary
        assert entry.exports is (name not in NOT_EXPORTED)
        module = build(name, 256, ndim=entry.axes[-1])
        assert entry.gate_add == isinstance(module, ChannelGate)
        assert entry.early_squeeze == (entry.gate_add and name not in {"srm", "gct"})
        for ndim in {1, 2, 3} - set(entry.axes):
            with pytest.raises(AttentionError, match="^[^\n]+$"):
                build(name, 64, ndim=ndim)
    for name in timm_names():
        entry = entries[f"timm:{name}"]
        assert entry.parameters == sum(p.numel() for p in create_attn(name, 256).parameters())
        assert entry.summary
        assert (entry.family, entry.axes, entry.exports) == ("", (2,), None)


def test_the_order_is_by_family_and_year() -> None:
    ours = [entry for entry in catalogue() if not entry.name.startswith("timm:")]
    keys = [(FAMILIES.index(entry.family), entry.year) for entry in ours]
    assert keys == sorted(keys)
    assert catalogue()[: len(ours)] == ours
    assert catalogue("channel") == [entry for entry in ours if entry.family == "channel"]
    with pytest.raises(AttentionError, match=r"no family 'chanel' \(did you mean channel\?\): there are channel, "):
        catalogue("chanel")


def test_where_timm_has_the_name_too_it_is_said_how_it_differs() -> None:
    both = {entry.name: entry.unlike for entry in catalogue() if entry.name.removeprefix("timm:") in library_names()}
    for name in timm_names():
        if name in library_names():
            assert both[f"timm:{name}"]
            assert not both[name]
    # The one that is said to be the same is, but where it is said not to be.
    ours, theirs = build("eca", 64), build("timm:eca", 64)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 64, 5, 7)
    assert (
        both["timm:eca"]
        == "the same function, but a kernel of 3 at least (for fewer than 8 channels), whatever its kernel_size says"
    )
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)
    kernels = {c: [build(name, c).conv.kernel_size for name in ("eca", "timm:eca")] for c in (7, 8)}
    assert kernels == {7: [(1,), (3,)], 8: [(3,), (3,)]}


def test_what_is_kept_is_made_anew_when_the_code_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTN_INJECT_CACHE", str(tmp_path))
    entry = catalogue()[0]
    monkeypatch.setattr(home, "_entries", lambda: iter([replace(entry, name="new")]))
    assert catalogue()[0] == entry
    monkeypatch.setattr(home, "_content", lambda: "another")
    assert [each.name for each in catalogue()] == ["new"]


def test_a_kept_list_needs_no_torch(tmp_path: Path) -> None:
    catalogue()
    code = (
        "import sys; from attn_inject.attention.catalogue import catalogue; catalogue(); print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


@pytest.mark.parametrize("name", library_names())
def test_every_layer_is_called(name: str) -> None:
    # Masks of a pruning, weight norms, quantization and adapters put themselves into the call of a layer.
    module = build(name, 32)
    layers = {path: part for path, part in module.named_modules() if isinstance(part, _LAYERS)}
    called: set[str] = set()
    for path, part in layers.items():
        part.register_forward_hook(lambda *_, path=path: called.add(path))
    module.eval()(torch.randn(2, 32, 9, 9))
    assert called == layers.keys()


@pytest.mark.parametrize("name", ["eca", "se", "se-gc", "mlca"])
def test_masks_of_a_pruning_are_trained_around(name: str) -> None:
    torch.manual_seed(0)
    module, x = build(name, 32), torch.randn(2, 32, 9, 9)
    for part in [part for part in module.modules() if isinstance(part, _LAYERS)]:
        prune.l1_unstructured(part, "weight", amount=0.3)
    for _ in range(2):
        before = module(x)
        before.sum().backward()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(10)
        assert not torch.allclose(module(x), before)
