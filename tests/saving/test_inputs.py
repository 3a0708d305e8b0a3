"""Files know what a model with several inputs was traced on; whatever is wrong there is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import CheckpointError, attach, inject, load, save
from attn_inject.saving.inputs import checked_inputs, inputs_from_plain, inputs_to_plain
from attn_inject.saving.inspection import inspect
from attn_inject.saving.record import record_from_text, record_to_text
from attn_inject.tracing.inputs import Inputs, image

from .. import toys
from ..tracing.test_input_forms import FORMS, Many
from .test_record import RECORD


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("case", ["of one", "in structures"])
def test_a_file_of_a_model_with_several_inputs_loads_without_being_told_them(
    case: str, suffix: str, tmp_path: Path
) -> None:
    patched = inject(Many(), "se", reduction=4, example_inputs=FORMS[case])
    save(patched, tmp_path / f"m{suffix}")
    loaded = load(tmp_path / f"m{suffix}", Many())
    real = next(FORMS[case].alternatives(Many(), 3)).real(torch.device("cpu"))
    assert torch.equal(real.given_to(loaded), real.given_to(patched))


def test_inspect_names_them(tmp_path: Path) -> None:
    save(inject(Many(), "eca", example_inputs=FORMS["in structures"]), tmp_path / "m.pt")
    assert inspect(tmp_path / "m.pt").inputs == (
        "image 2x3x8x8 float32",
        "index 2 int64",
        "given.mask 2x1x8x8 bool",
        "maps.0 2x1x8x8 float32",
        "maps.1 2x16x1x1 float32",
    )


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_exports_take_any_batch_of_them(suffix: str, tmp_path: Path) -> None:
    patched = inject(Many(), "eca", example_inputs=FORMS["of one axis for all"]).eval()
    save(patched, tmp_path / f"m{suffix}")
    scale = torch.randn(5, 16, 1, 1)
    given: dict[str, Any] = {"image": torch.randn(5, 3, 8, 8), "index": torch.arange(5) % 4, "maps": [scale]}
    expected = patched(**given).detach()
    if suffix == ".pt2":
        assert torch.equal(torch.export.load(tmp_path / "m.pt2").module()(**given), expected)
        return
    session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "m.onnx")
    assert [slot.name for slot in session.get_inputs()] == ["image", "index", "maps.0"]
    assert [slot.name for slot in session.get_outputs()] == ["output"]
    assert {slot.shape[0] for slot in [*session.get_inputs(), *session.get_outputs()]} == {"batch"}
    values = [given["image"], given["index"], scale]
    feeds = {slot.name: value.numpy() for slot, value in zip(session.get_inputs(), values, strict=True)}
    torch.testing.assert_close(torch.from_numpy(session.run(None, feeds)[0]), expected, rtol=1e-4, atol=1e-5)


def _images(*shape: int) -> Inputs:
    return Inputs((torch.empty(shape, device="meta"),))


def test_plain_parts_come_back_and_one_image_is_the_plan_s() -> None:
    given = Inputs((torch.empty(2, 3, device="meta"), (1, 2.5)), {"a": [None, True], "b": {"c": "text"}})
    made = inputs_to_plain(given, nn.Identity())
    again = inputs_from_plain(checked_inputs("inputs", json.loads(json.dumps(made))))
    assert (again.positional[1], again.named) == (given.positional[1], given.named)
    assert again.positional[0].shape == (2, 3)
    assert inputs_to_plain(_images(2, 3, 8, 8), toys.conv(3, 4)) is None
    assert inputs_to_plain(_images(2, 3, 8), toys.conv(3, 4, d=1)) is None
    assert inputs_to_plain(Inputs((nn.Identity(),)), nn.Identity()) is None
    others = [
        image(8),
        _images(2, 3, 8),
        image(3, 8, 8),
        _images(3, 3, 8, 8),
        Inputs((torch.empty(2, 3, 8, 8, dtype=torch.uint8),)),
    ]
    assert None not in [inputs_to_plain(other, toys.conv(3, 4)) for other in others]


class Sounds(nn.Module):
    """(N, samples) -> a spectrogram, of which a block is made."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = toys.conv(1, 16)
        self.block = toys.Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        windows = sound.unfold(1, 16, 8)
        out: torch.Tensor = self.block(self.stem((windows @ windows.new_ones(16, 8).tril()).unsqueeze(1)))
        return out


class Bytes(Sounds):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.dtype == torch.uint8:
            image = image.float() / 255
        out: torch.Tensor = self.block(self.stem(image))
        return out


@pytest.mark.parametrize(
    ("kind", "given"),
    [(Sounds, torch.rand(2, 128)), (Bytes, torch.randint(0, 255, (2, 1, 8, 8), dtype=torch.uint8))],
)
def test_what_is_no_image_is_read_again_as_it_was(kind: Any, given: torch.Tensor, tmp_path: Path) -> None:
    model = kind()
    patched = inject(model, "se", example_inputs=given, reduction=4)
    save(patched, tmp_path / "net.pt")
    for form in ("graph", "module"):
        loaded = load(tmp_path / "net.pt", model, form=form)
        assert torch.equal(loaded.eval()(given), patched.eval()(given))
        assert toys.gates_run(loaded, given) == 1


class OneBatch(nn.Module):
    """Its code holds for one batch alone, and decides on data, so that it has no graph."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.stem, self.block = toys.conv(3, 16), toys.Residual(toys.conv(16, 16), nn.ReLU())
        self.batch = batch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.block(self.stem(x))
        if out.max() > 1e9:
            out = out * 2
        return out * out.mean((2, 3)).view(self.batch, 16, 1, 1)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_that_code_holds_for_alone_is_kept(batch: int, tmp_path: Path) -> None:
    x = torch.rand(batch, 3, 8, 8)
    patched = attach(OneBatch(batch), "se", example_inputs=x, reduction=4)
    save(patched, tmp_path / "net.pt")
    loaded = load(tmp_path / "net.pt", OneBatch(batch), form="module")
    assert toys.gates_run(loaded, x) == 1
    assert torch.equal(loaded.eval()(x), patched.eval()(x))


class Weighed(nn.Module):
    """As many branches as it is given weights for; a cell of a search for architectures."""

    def __init__(self) -> None:
        super().__init__()
        convolves = nn.Sequential(nn.ReLU(), toys.conv(16, 16), nn.BatchNorm2d(16))
        pools = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(16))
        self.branches = nn.ModuleList([nn.Identity(), convolves, pools])

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        pairs = zip(weights, self.branches, strict=False)
        return sum(weight * branch(x) for weight, branch in pairs)


class Weighing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Weighed()
        self.weights = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.block(x, self.weights.softmax(0))
        return out


def test_what_attach_leaves_out_is_said_of_a_file(tmp_path: Path) -> None:
    model = Weighing()
    patched = inject(model, "eca", input_size=(16, 8, 8))
    attached = attach(model, "eca", input_size=(16, 8, 8))
    assert len(patched.injection.plan.insertions) > len(attached.injection.plan.insertions)
    save(patched, tmp_path / "net.pt")
    load(tmp_path / "net.pt", model)
    with pytest.raises(CheckpointError, match=r"load it with form='graph' \(left out: block: "):
        load(tmp_path / "net.pt", model, form="module")


TENSOR = {"tensor": [2, 3], "dtype": "float32"}


def _nested(levels: int) -> Any:
    return {"list": [_nested(levels - 1)]} if levels else TENSOR


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "the record: inputs must be a table of named values, not list"),
        ({"names": {}}, "the record: inputs has an unknown key 'names'"),
        ({"positional": TENSOR}, "the record: inputs: positional must be a list of"),
        ({"positional": [{"tensor": [2, -3], "dtype": "float32"}]}, "positional 0 1 must be a whole number from 1"),
        ({"positional": [{"tensor": [2**30, 2**30], "dtype": "float32"}]}, "positional 0 is larger than any input"),
        ({"positional": [{"tensor": [1] * 9, "dtype": "float32"}]}, "positional 0 must be a list of 0 to 8 items"),
        ({"positional": [{"tensor": [2], "dtype": "load"}]}, "positional 0 dtype must be one of"),
        ({"positional": [{"tensor": [2]}]}, "positional 0 must be a tensor with its dtype"),
        ({"named": {"x": {"plain": float("1e300")}}}, "named x must be a finite number"),
        ({"named": {"x": _nested(9)}}, "is nested beyond any use"),
        ({"named": {str(i): TENSOR for i in range(201)}}, "named has more than 200 parts"),
        ({"positional": [TENSOR] * 201}, "positional must be a list of 0 to 200 items"),
    ],
)
def test_faulty_ones(inputs: Any, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        record_from_text(json.dumps(json.loads(record_to_text(RECORD)) | {"inputs": inputs}), "m.pt")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_says_nothing_of_one_image(tmp_path: Path) -> None:
    """So that earlier versions, which do not know the word, still read it."""
    patched = inject(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), "se", reduction=4, kinds=["stage"], input_size=16)
    save(patched, tmp_path / "m.safetensors")
    assert b"fingerprint" in (tmp_path / "m.safetensors").read_bytes()
    assert b'\\"inputs\\"' not in (tmp_path / "m.safetensors").read_bytes()
    save(inject(Many(), "eca", example_inputs=FORMS["of one"]), tmp_path / "m.safetensors")
    assert b'\\"inputs\\"' in (tmp_path / "m.safetensors").read_bytes()
