"""What a report's models are run on: several inputs, batches that cannot be one, and what is said of them."""

from __future__ import annotations

import json
import pickle

import jsonschema
import pytest
import torch
from torch import nn

from attn_inject import AttnInjectError, GuardError, attach, inject, optimize, report
from attn_inject.reporting import schema
from attn_inject.reporting.data import InputRow
from attn_inject.reporting.views.console import to_text

from ..tracing.test_input_forms import FORMS, Block, Many


def test_it_is_about_what_the_model_was_patched_on() -> None:
    model = Many()
    made = report(model, inject(model, "se", reduction=4, example_inputs=FORMS["in structures"]), bench=False)
    assert made.input_size == (3, 8, 8)
    assert made.inputs == (
        InputRow("image", (3, 8, 8), "float32"),
        InputRow("index", (), "int64"),
        InputRow("given.mask", (1, 8, 8), "bool"),
        InputRow("maps.0", (1, 8, 8), "float32"),
        InputRow("maps.1", (16, 1, 1), "float32"),
    )
    convolutions = 64 * 9 * (3 * 16 + 2 * 16 * 16)
    assert made.total("MACs").before == convolutions
    assert made.total("MACs").after == convolutions + 2 * 16 * 4
    jsonschema.validate(json.loads(made.to_json()), schema.REPORT)
    assert "image 3×8×8, index int64, given.mask 1×8×8 bool, maps.0 1×8×8" in " ".join(to_text(made).split())


def test_other_inputs_may_be_given() -> None:
    model = Many()
    patched = inject(model, "eca", example_inputs=FORMS["of one"])
    given = {"image": torch.randn(4, 3, 16, 16), "index": torch.zeros(4, dtype=torch.int64)}
    made = report(model, patched, bench=False, example_inputs=given)
    assert made.inputs[0].size == (3, 16, 16)
    assert made.total("MACs").before == 256 * 9 * (3 * 16 + 2 * 16 * 16)
    with pytest.raises(AttnInjectError, match="input_size is for models with one input: give example_inputs"):
        report(model, patched, bench=False, input_size=(3, 16, 16))


@pytest.mark.parametrize("training", [False, True])
def test_it_is_timed(training: bool) -> None:
    model = Many()
    patched = inject(model, "eca", example_inputs=FORMS["in structures"])
    made = report(model, patched, bench_seconds=0.05, device="cpu", training=training, channels_last=True)
    assert [speed.batch for speed in made.speeds] == [1 + training] * (1 + training)
    assert made.sites[0].seconds is not None


def test_a_named_image_may_be_of_another_size() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 3)
            self.block = Block(16)

        def forward(self, *, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.block(self.stem(pixel_values))

    model = Named()
    patched = inject(model, "se", reduction=4, input_size=(3, 18, 18))
    assert report(model, patched, bench=False).inputs == (InputRow("pixel_values", (3, 18, 18), "float32"),)
    made = report(model, patched, bench=False, input_size=(3, 10, 10))
    assert made.total("MACs").before == 64 * 9 * (3 * 16 + 2 * 16 * 16)
    assert report(model, optimize(patched), bench=False, example_inputs={"pixel_values": torch.zeros(1, 3, 10, 10)})


class Paired(nn.Module):
    """Takes two images at a time, never one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.block = Block(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] % 2:
            raise ValueError("images come in pairs")
        return self.block(self.stem(x)).mean((2, 3))


def test_a_model_that_takes_no_single_image_is_counted_for_its_batch() -> None:
    model = Paired()
    patched = inject(model, "se", reduction=4, example_inputs=torch.randn(4, 3, 8, 8))
    with pytest.raises(GuardError):
        patched(torch.randn(1, 3, 8, 8))
    made = report(model, patched, bench=False)
    assert made.total("MACs").before == 4 * 64 * 9 * (3 * 16 + 2 * 16 * 16)
    assert "counted for a batch of 4: the model takes no single input" in made.notes
    made = report(model, patched, bench_seconds=0.05, device="cpu", batch=4)
    assert made.speeds[0].batch == 4


class InDict(nn.Module):
    """Its one image comes in a structure."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.block = Block(16)

    def forward(self, given: dict[str, list[torch.Tensor]]) -> torch.Tensor:
        return self.block(self.stem(given["images"][0]))


def macs(extent: int) -> int:
    """Of a stem from 3 to 16 channels and a block of 16, on a square map."""
    return extent**2 * 9 * (3 * 16 + 2 * 16 * 16)


def test_an_image_size_goes_into_the_structure_that_the_model_was_traced_on() -> None:
    model = InDict()
    patched = inject(model, "eca", example_inputs={"given": {"images": [torch.randn(2, 3, 8, 8)]}})
    made = report(model, patched, bench=False, input_size=(3, 12, 12))
    assert made.inputs == (InputRow("given.images.0", (3, 12, 12), "float32"),)
    assert made.total("MACs").before == macs(12)


class Single(nn.Sequential):
    """Takes an image, and says nothing of its size."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 16, 3, padding=1), Block(16))


class Sized(Single):
    """Says what it is made for."""

    image_size = 24


def test_what_has_no_traced_inputs_is_counted_at_the_size_of_the_plan() -> None:
    model = Single()
    unpickled = pickle.loads(pickle.dumps(inject(model, "eca", input_size=(3, 20, 12))))
    for patched in (unpickled, attach(model, "eca", input_size=(3, 20, 12))):
        made = report(model, patched, bench=False)
        assert made.input_size == (3, 20, 12)
        assert made.total("MACs").before == 20 * 12 * macs(1)
        assert [row.block for row in made.sites] == ["1"]
        assert made.total("parameters").difference == made.sites[0].added.parameters == 3


def test_a_plain_pair_is_counted_at_the_size_that_the_model_is_made_for() -> None:
    assert report(Single(), Single(), bench=False).input_size == (3, 224, 224)
    assert report(Sized(), Sized(), bench=False).total("MACs").before == macs(24)


def test_a_model_that_says_nothing_of_its_input_wants_a_size() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(AttnInjectError, match=r"^the model does not say what input it takes; give input_size="):
        report(model, model, bench=False)
    assert report(model, model, bench=False, input_size=(3, 2, 2)).total("MACs").before == 24
