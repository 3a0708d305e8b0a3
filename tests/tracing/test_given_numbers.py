"""Inputs whose numbers code looks things up by: trials run on those that the caller gave, and on no noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import CheckpointError, attach, find_sites, inject, load, report, save
from attn_inject.tracing.given_numbers import numbers_of
from attn_inject.tracing.inputs import Inputs, real_values
from tests.toys import Residual


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = Residual(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(self.stem(x))


class Regions(Body):
    """Reads the map of the image that a float says, as `roi_align` does; that does not check it, as this does."""

    def forward(self, x: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        return self.maps(x).index_select(0, rois[:, 0].long()) * rois[:, 1:, None, None]


class Classes(Body):
    """Wants classes from 1 on."""

    def forward(self, x: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        if (wanted < 1).any():
            raise ValueError("there is no class 0")
        return self.maps(x).mean((2, 3))[:, wanted.max() - 1]


def test_floats_that_are_no_map_are_indices_of_a_first_image_at_most() -> None:
    x, rois = torch.randn(2, 3, 8, 8), torch.tensor([[0.0] * 9, [1.0] * 9])
    for verb in (inject, attach):
        patched: Any = verb(Regions(), "eca", example_inputs=(x, rois))
        assert patched.injection.verification.passed


@pytest.mark.parametrize("given", ["tuple", "dict"])
def test_whole_numbers_are_those_that_were_given(given: str) -> None:
    x, wanted = torch.randn(2, 3, 8, 8), torch.tensor([3, 2])
    inputs: Any = (x, wanted) if given == "tuple" else {"x": x, "wanted": wanted}
    (site,) = find_sites(Classes(), example_inputs=inputs)
    assert site.block == "block"
    attached: Any = attach(Classes(), "eca", example_inputs=inputs)
    assert attached.injection.verification.passed
    assert "train equal to the bit" in str(attached.injection)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, 8, 3, padding=1)
        self.block = Residual(nn.Conv1d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 8, 3, padding=1))
        self.recurrent = nn.GRU(8, 4, batch_first=True)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        x = self.block(self.stem(x)).transpose(1, 2)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)[0]


def test_sequences_are_packed_by_the_lengths_that_were_given(tmp_path: Path) -> None:
    inputs = torch.randn(2, 4, 12), torch.tensor([7, 12])
    sites = find_sites(Packed(), example_inputs=inputs)
    assert [site.block for site in sites] == ["block"]
    assert "what it gives depends on numbers in a tensor" in str(sites.recorded)
    model = Packed().eval()
    attached: Any = attach(model, "eca", example_inputs=inputs, init="identity").eval()
    assert attached.injection.verification.passed
    assert torch.equal(attached(*inputs), model(*inputs))
    save(attached, tmp_path / "packed.pt")
    with pytest.raises(CheckpointError, match=r"a file keeps the sizes of inputs and not their numbers: give load\(\)"):
        load(tmp_path / "packed.pt", model, form="module")
    again: Any = load(tmp_path / "packed.pt", model, form="module", example_inputs=inputs)
    assert torch.equal(again.eval()(*inputs), attached(*inputs))


def test_a_report_goes_over_the_rows_again() -> None:
    class Embedded(Body):
        def __init__(self) -> None:
            super().__init__()
            self.names = nn.Embedding(3, 8)

        def forward(self, x: torch.Tensor, name: torch.Tensor) -> torch.Tensor:
            return self.maps(x) * self.names(name - 1)[:, :, None, None]

    inputs = torch.randn(2, 3, 8, 8), torch.tensor([1, 3])
    model = Embedded()
    patched = inject(model, "eca", example_inputs=inputs)
    for batch in (2, 5):
        made = report(model, patched, batch=batch, bench_seconds=0.05, device="cpu")
        assert made.speeds


def test_numbers_of_inputs() -> None:
    whole = torch.tensor([1, 2, 3])
    inputs = Inputs((torch.randn(3, 2, 4, 4), whole), {"more": [torch.tensor([True])]})
    shaped = inputs.on_meta().on_meta()
    assert all(tensor.is_meta for tensor in shaped.tensors)
    image, numbers, (flag,) = shaped.real(torch.device("cpu")).values
    assert image.shape == (3, 2, 4, 4)
    assert numbers.tolist() == [1, 2, 3]
    assert flag.tolist() == [True]
    numbers.zero_()
    assert shaped.real(torch.device("cpu")).values[1].tolist() == [1, 2, 3]
    assert shaped.with_batch(5).real(torch.device("cpu")).values[1].tolist() == [1, 2, 3, 1, 2]
    # An image that a number stands for may be among those that are left out.
    assert shaped.with_batch(2).real(torch.device("cpu")).values[1].tolist() == [0, 0]
    assert shaped.with_batch(2).with_batch(4).real(torch.device("cpu")).values[1].tolist() == [1, 2, 3, 1]
    assert shaped.resized(2, 0).real(torch.device("cpu")).values[1].tolist() == [0, 0, 0, 0]
    assert numbers_of(torch.empty(2, dtype=torch.int64, device="meta"), 1) is None
    (vector,) = real_values((torch.empty(4, 5, device="meta"),), torch.device("cpu"))
    assert vector.min() >= 0
    assert vector.max() < 1
