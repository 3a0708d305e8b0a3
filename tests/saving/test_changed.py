"""Attention that was changed after it was put in: its file would not load, which `save` says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from attn_inject import CheckpointError, attach, inject, load, save

from ..toys import SPELLINGS, Block, Toy, gates_run


def _narrower(gate: nn.Module) -> None:
    gate.fc1, gate.fc2 = nn.Linear(16, 1, bias=False), nn.Linear(1, 16, bias=False)


CHANGES: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "masked": (
        lambda gate: prune.l1_unstructured(gate.fc1, "weight", 0.5),
        "fc1.weight_orig is 4x16, and not there as",
    ),
    "parametrized": (
        lambda gate: parametrizations.weight_norm(gate.fc2),
        "fc2.parametrizations.weight.original0 is 16x1, and not there as planned",
    ),
    "exchanged": (lambda _gate: None, "its class is Identity, and SE as planned"),
    "set otherwise": (lambda gate: setattr(gate, "scale", 2.0), "scale is 2.0, and 1.0 as planned"),
    "cut": (_narrower, "fc1.weight is 1x16, and 4x16 as planned"),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("form", [inject, attach])
@pytest.mark.parametrize("change", CHANGES)
def test_what_could_not_be_loaded_is_not_written(
    change: str, form: Callable[..., nn.Module], suffix: str, tmp_path: Path
) -> None:
    model = Toy(Block(SPELLINGS["+"])).eval()
    patched = form(model, "se", reduction=4, input_size=model.size)
    make, sentence = CHANGES[change]
    make(patched.get_submodule("body.se"))
    if change == "exchanged":
        patched.get_submodule("body").se = nn.Identity()
    for attention_only in (False, True):
        with pytest.raises(CheckpointError, match="body.se was changed after it was put in") as caught:
            save(patched, tmp_path / f"x{suffix}", attention_only=attention_only)
        assert sentence in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", [inject, attach])
def test_masks_and_parametrizations_that_are_permanent_are_saved(
    form: Callable[..., nn.Module], tmp_path: Path
) -> None:
    model = Toy(Block(SPELLINGS["+"])).eval()
    patched = form(model, "se", reduction=4, input_size=model.size).eval()
    gate = patched.get_submodule("body.se")
    prune.l1_unstructured(gate.fc1, "weight", 0.5)
    parametrizations.weight_norm(gate.fc2)
    prune.remove(gate.fc1, "weight")
    parametrize.remove_parametrizations(gate.fc2, "weight")
    save(patched, tmp_path / "x.pt")
    x = torch.randn(2, *model.size)
    loaded = load(tmp_path / "x.pt", model=model).eval()
    assert torch.equal(loaded(x), patched(x))
    assert gates_run(loaded, x) == 1
