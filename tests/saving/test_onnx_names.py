"""The names that an `.onnx` gives its tensors and its open axis."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from attn_inject import inject, save


class Parts(nn.Module):
    """Gives several maps, and has children whose names are those that the file wants for itself."""

    def __init__(self, *, named: bool) -> None:
        super().__init__()
        self.input, self.output, self.named = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), named

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor] | tuple[torch.Tensor, torch.Tensor]:
        x = self.input(x)
        x = x + torch.relu(self.output(torch.relu(x)))
        return {"map": x, "mean": x.mean((2, 3))} if self.named else (x, x.mean((2, 3)))


@pytest.mark.parametrize(("named", "names"), [(True, ["map", "mean"]), (False, ["output.0", "output.1"])])
@pytest.mark.slow
def test_inputs_and_outputs_have_names_that_people_know(named: bool, names: list[str], tmp_path: Path) -> None:
    model = Parts(named=named).eval()
    save(inject(model, "se", reduction=4, input_size=(3, 8, 8)).eval(), tmp_path / "m.onnx")
    session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "m.onnx")
    (given,) = session.get_inputs()
    assert (given.name, given.shape) == ("input", ["batch", 3, 8, 8])
    assert [(slot.name, slot.shape[0]) for slot in session.get_outputs()] == [(name, "batch") for name in names]
