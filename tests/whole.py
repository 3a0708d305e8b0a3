"""A network with attention, whole, as people use it: trained by its own losses, predicted, saved, loaded, exported.

    check_whole(use, attach(...), tmp_path)

asserts for a network that `attach` gave with gates of one and weights of its own (`copy=True`): it predicts what the
original predicts, and its first losses are the original's, to the bit; in three steps each attention parameter gets a
gradient and moves, and what is frozen stays, to the bit; its gates run and count; a file brings all of it back into
another network, to the bit; and what exports the original exports it, as it predicts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn

from attn_inject import CheckpointError, attention_parameters, detach, load, save
from attn_inject.tracing.inputs import tensors_in

from .before_after import every_gate_runs

# float32 sums in another order, relative to the largest value.
CLOSE = 1e-4
STEPS, RATE = 3, 1e-3


@dataclass(frozen=True)
class Use:
    """How one network is used.

    `build` makes it with the weights of a seed, in eval mode; it is called with `images` to predict; `losses` is what
    it gives in train mode for a batch. `exporters`, beside torch.export, write a file of it and run that on the images.
    """

    build: Callable[[int], Any]
    images: Any
    losses: Callable[[Any], list[torch.Tensor]]
    exporters: tuple[Callable[[nn.Module, Any, Path], list[torch.Tensor]], ...] = ()

    def predicted(self, model: nn.Module) -> list[torch.Tensor]:
        with torch.no_grad():
            return list(tensors_in(model.eval()(copy.deepcopy(self.images))))

    def lost(self, model: nn.Module, seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return self.losses(model.train())


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return len(ours) == len(theirs) > 0 and all(map(torch.equal, ours, theirs))


def check_whole(use: Use, attached: Any, folder: Path) -> None:
    """Assert everything the module's docstring says."""
    model = use.build(0)
    assert type(attached) is type(model)
    before = use.predicted(model)
    assert all(len(each) for each in before)
    assert same(use.predicted(attached), before)
    assert same(use.lost(attached, 0), use.lost(copy.deepcopy(model), 0))

    _check_training(use, attached)
    after = every_gate_runs(attached, copy.deepcopy(use.images))
    assert same(use.predicted(attached), after)
    assert not same(use.predicted(detach(attached)), after)

    save(attached, folder / "net.safetensors")
    loaded = load(folder / "net.safetensors", use.build(1), form="module")
    assert type(loaded) is type(model)
    assert same(every_gate_runs(loaded, copy.deepcopy(use.images)), after)

    _check_exports(use, model, attached, folder)


def _check_training(use: Use, attached: Any) -> None:
    earlier = {name: parameter.detach().clone() for name, parameter in attached.named_parameters()}
    optimizer = torch.optim.Adam([p for p in attached.parameters() if p.requires_grad], RATE)
    for step in range(STEPS):
        optimizer.zero_grad()
        torch.stack(use.lost(attached, step)).sum().backward()
        optimizer.step()
    new = {id(parameter) for parameter in attention_parameters(attached)}
    assert new
    for name, parameter in attached.named_parameters():
        if id(parameter) in new:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
            assert not torch.equal(parameter, earlier[name]), name
        elif not parameter.requires_grad:
            assert torch.equal(parameter, earlier[name]), name


def _check_exports(use: Use, model: Any, attached: Any, folder: Path) -> None:
    """What exports the original exports what was attached to it, and `save` writes what torch.export can export."""
    theirs = use.predicted(model)
    ours = use.predicted(attached)
    exports = _works(lambda: torch.export.export(copy.deepcopy(model), (use.images,)))
    if exports:
        save(attached, folder / "net.pt2")
        program = torch.export.load(folder / "net.pt2").module()
        with torch.no_grad():
            assert_close(list(tensors_in(program(use.images))), ours)
        save(attached, folder / "net.onnx")
        assert_close(_in_onnxruntime(folder / "net.onnx", use.images), ours)
    else:
        with pytest.raises(CheckpointError, match=r"torch\.export cannot export this model"):
            save(attached, folder / "net.pt2")
    for exporter in use.exporters:
        assert_close(exporter(copy.deepcopy(model), use.images, folder), theirs)
        assert_close(exporter(copy.deepcopy(attached), use.images, folder), ours)


def _works(export: Callable[[], Any]) -> bool:
    try:
        export()
    except Exception:  # What it cannot do it reports in many types.
        return False
    return True


def assert_close(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert [each.shape for each in ours] == [each.shape for each in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert (one.float() - other.float()).abs().max() <= CLOSE * other.float().abs().max().clamp(min=1e-6)


def _in_onnxruntime(file: Path, images: Any) -> list[torch.Tensor]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    values = [value.numpy() for value in tensors_in(images)]
    feeds = {slot.name: value for slot, value in zip(session.get_inputs(), values, strict=True)}
    return [torch.from_numpy(value) for value in session.run(None, feeds)]


def by_onnx_from_a_trace(model: nn.Module, images: Any, folder: Path) -> list[torch.Tensor]:
    """torch's older exporter, which follows one run, as torchvision's detectors are made for."""
    torch.onnx.export(model.eval(), (images,), str(folder / "traced.onnx"), dynamo=False, opset_version=17)
    return _in_onnxruntime(folder / "traced.onnx", images)
