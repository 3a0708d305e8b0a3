"""Sizes and types by name become inputs: with or without the batch, in structures, each mistake one sentence."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attn_inject import TraceError, find_sites, inject
from attn_inject.tracing.input_forms import InputForm, InputForms


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(torch.relu(self.conv1(x)))


class Many(nn.Module):
    """An image, an index for each, and maps in a dict and in a list that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.table = nn.Embedding(4, 16)
        self.block = Block(16)

    def forward(
        self,
        image: torch.Tensor,
        index: torch.Tensor,
        *,
        given: dict[str, torch.Tensor] | None = None,
        maps: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        x = self.stem(image) + self.table(index)[:, :, None, None]
        if given is not None:
            x = x.masked_fill(given["mask"], 0.0)
        for each in maps or []:
            x = x * each
        return self.block(x)


def _forms(**forms: tuple[tuple[int, ...], str | None]) -> InputForms:
    return InputForms({name.replace("__", "."): InputForm(size, dtype) for name, (size, dtype) in forms.items()})


FORMS = {
    "of one": _forms(image=((3, 8, 8), None), index=((), "int64")),
    "a batch of one": _forms(image=((1, 3, 8, 8), None), index=((1,), "int64")),
    "as they stand": _forms(image=((5, 3, 8, 8), None), index=((5,), "int64")),
    "in structures": _forms(
        image=((3, 8, 8), None),
        index=((), "int64"),
        given__mask=((1, 8, 8), "bool"),
        maps__0=((1, 8, 8), None),
        maps__1=((16, 1, 1), None),
    ),
    "of one axis for all": _forms(image=((1, 3, 8, 8), None), index=((1,), "int64"), maps__0=((1, 16, 1, 1), None)),
}


@pytest.mark.parametrize("case", FORMS)
@pytest.mark.slow
def test_a_model_is_read_and_patched(case: str) -> None:
    model = Many().eval()
    assert [site.block for site in find_sites(model, example_inputs=FORMS[case])] == ["block"]
    patched = inject(model, "eca", init="identity", example_inputs=FORMS[case])
    given = next(FORMS[case].alternatives(model, 3))
    if case not in ("of one", "in structures"):
        *_, given = FORMS[case].alternatives(model, 3)
    real = given.real(torch.device("cpu"))
    assert torch.equal(real.given_to(patched), real.given_to(model))


def test_what_the_sizes_may_mean() -> None:
    sizes = [[tuple(t.shape) for t in each.tensors] for each in FORMS["a batch of one"].alternatives(Many(), 2)]
    assert sizes == [[(2, 1, 3, 8, 8), (2, 1)], [(2, 3, 8, 8), (2,)], [(1, 3, 8, 8), (1,)]]
    sizes = [[tuple(t.shape) for t in each.tensors] for each in FORMS["of one"].alternatives(Many(), 2)]
    assert sizes == [[(2, 3, 8, 8), (2,)], [(3, 8, 8), ()]]


def test_floating_point_inputs_have_the_type_of_the_weights() -> None:
    given = next(FORMS["in structures"].alternatives(Many().double(), 2))
    assert [tensor.dtype for tensor in given.tensors] == [
        torch.float64,
        torch.int64,
        torch.bool,
        torch.float64,
        torch.float64,
    ]
    assert isinstance(given.named["maps"], list)


@pytest.mark.parametrize(
    ("forms", "message"),
    [
        ({"imag": ((3, 8, 8), None)}, r"the model takes no input 'imag' \(did you mean image\?\)"),
        ({"image": ((3, 8, 8), None)}, "the model also needs the input index: give a size for each"),
        ({"image": ((3, 0, 8), None), "index": ((), "int64")}, r"no network takes an input of shape 3x0x8 \(image\)"),
        ({"image": ((3, 2**30, 2**30), None), "index": ((), "int64")}, "no network takes an input of shape"),
        ({"image": ((7, 8, 8), None), "index": ((), "int64")}, "stem"),
    ],
)
def test_mistakes(forms: dict[str, tuple[tuple[int, ...], str | None]], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        find_sites(Many(), example_inputs=_forms(**forms))
