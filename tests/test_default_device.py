"""Whatever device a script makes its tensors on (`torch.set_default_device("cuda")`), ours are where the model is.

The meta device stands for every other one: what is made there by mistake has no values.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # torch 2.6 fails to import it where the meta device is the default
import torch.nn.functional as F
from torch import nn

from attn_inject import (
    apply_plan,
    attach,
    choose,
    detach,
    fold,
    gates,
    inject,
    load,
    make_plan,
    optimize,
    optimize_training,
    remove,
    report,
    save,
    verify,
)

from .toys import gates_run, preactivation

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 1, 2, 3])
DATA = [(scale * IMAGES, CLASSES) for scale in (1, 2, 3, 4)]
SIZE = (3, 16, 16)


def _toy() -> nn.Module:
    torch.manual_seed(0)
    return preactivation().eval()


def _inject(model: nn.Module, **wishes: Any) -> nn.Module:
    return inject(model, "se", reduction=4, init="identity", input_size=SIZE, **wishes)


def _attach(model: nn.Module) -> nn.Module:
    return attach(model, "se", reduction=4, init="identity", input_size=SIZE)


def _within(model: nn.Module) -> nn.Module:
    return _inject(nn.Sequential(model), scope="0")


@pytest.mark.parametrize(
    "made",
    [
        _inject,
        _attach,
        _within,
        lambda model: apply_plan(model, make_plan(model, "eca", init="identity", input_size=SIZE)),
        lambda model: remove(_inject(model)),
        lambda model: detach(_attach(model)),
        lambda model: optimize(_inject(model)),
        lambda model: optimize(_attach(model)),
        lambda model: optimize_training(_inject(model)),
        lambda model: optimize_training(_attach(model)),
        lambda model: fold(_inject(model), DATA, 1.0),
        lambda model: apply_plan(model, choose(model, "se", DATA, F.cross_entropy, "params=1.5", steps=2, seeds=1)),
    ],
)
@pytest.mark.slow
def test_models_are_where_the_model_was(made: Callable[[nn.Module], nn.Module]) -> None:
    model = _toy()
    expected = model(IMAGES)
    with torch.device("meta"):
        result = made(model)
    assert not any(tensor.is_meta for tensor in (*result.parameters(), *result.buffers()))
    torch.testing.assert_close(result.eval()(IMAGES), expected)


@pytest.mark.parametrize("make", [_inject, _attach, _within])
def test_the_gates_run(make: Callable[[nn.Module], nn.Module]) -> None:
    model = _toy()
    with torch.device("meta"):
        patched = make(model)
    assert gates_run(patched.eval(), IMAGES) == 1


@pytest.mark.parametrize("make", [_inject, _attach])
def test_figures_are_of_values(make: Callable[[nn.Module], nn.Module]) -> None:
    model = _toy()
    patched = make(model)
    with torch.device("meta"):
        assert verify(model, patched).passed
        costs = report(model, patched, bench=False)
        found = gates(patched, DATA)
    assert costs.to_json() == report(model, patched, bench=False).to_json()
    assert found.to_json() == gates(patched, DATA).to_json()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_hold_values(suffix: str, tmp_path: Path) -> None:
    model = _toy()
    patched = _inject(model)
    with torch.device("meta"):
        save(patched, tmp_path / f"m{suffix}")
        again = load(tmp_path / f"m{suffix}", model)
    assert torch.equal(again(IMAGES), patched(IMAGES))
