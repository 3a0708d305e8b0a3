"""Networks of volumes as `.onnx`, and what is said where onnxruntime cannot run a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from attn_inject import CheckpointError, InjectedModule, inject, save

from ..toys import Lambda
from .nets import assert_export_holds

SIZE = (4, 5, 6, 7)


def _volumes() -> InjectedModule:
    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        return x + m.last(torch.relu(m.first(x)))

    torch.manual_seed(0)
    layers = {name: nn.Conv3d(4, 4, 3, padding=1, bias=False) for name in ("first", "last")}
    return inject(Lambda(run, **layers), "se:reduction=2", input_size=SIZE).eval()


def test_convolutions_without_a_bias_have_none(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    assert_export_holds(_volumes(), SIZE, tmp_path / "m.onnx")
    convolutions = [node for node in onnx.load(str(tmp_path / "m.onnx")).graph.node if node.op_type == "Conv"]
    assert [len(node.input) for node in convolutions] == [2, 2]


def test_what_onnxruntime_cannot_run_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("\x1b[1;31mConv: no such kernel\nat conv.cc:275")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    words = "^onnxruntime cannot run what torch.onnx wrote for this model: Conv: no such kernel$"
    with pytest.raises(CheckpointError, match=words):
        save(_volumes(), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()
