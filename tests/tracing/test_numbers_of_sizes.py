"""Tensors that code makes of sizes alone: their numbers decide, and are checked, as sizes are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_inject import GuardError, TraceError, inject

How = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Net(nn.Module):
    """One residual block, and something of the input's size beside it."""

    def __init__(self, how: How) -> None:
        super().__init__()
        self.stem, self.conv, self.head = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 4, 1),
        )
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self.how(x, x + torch.relu(self.conv(x))))


def to_eighths(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """CompressAI's way of padding."""
    return F.pad(y, (0, 0, 0, int(torch.ceil(torch.as_tensor(x.shape[2] / 8))) * 8 - x.shape[2]))


def over_axes(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return y - y.mean(dim=tuple(torch.arange(2, x.ndim)), keepdim=True)


def over_listed_axes(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return y - y.mean(dim=torch.arange(2, x.ndim).tolist(), keepdim=True)


def turn_by_turn(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    for axis in torch.arange(2, x.ndim):
        y = y.cumsum(axis) / (int(axis) + 1)
    return y


def by_item(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    levels = torch.tensor([x.shape[2], x.shape[3]]).float().log2().ceil().max().item()
    return y / levels


def by_a_branch(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return y * 2 if torch.tensor(x.shape[2:]).prod() > 100 else y


def by_numpy(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return y * float(np.asarray(torch.tensor([x.shape[2], 2]))[0])


def by_a_length(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return y + torch.arange(torch.tensor(x.shape[2])).view(1, 1, -1, 1)  # type: ignore[call-overload]


def by_membership(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return y * 2 if 3 in torch.arange(x.ndim) else y


def written_into(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    sizes = torch.zeros(x.ndim, dtype=torch.long)
    sizes[0] = x.shape[3]
    sizes += 1
    return y * float(sizes[0]) + sizes[1].item()


def as_many_as_there_are(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Of which no shape tells how many come out."""
    sides = torch.unique(torch.tensor([x.shape[2], x.shape[3]]))
    large = sides[sides > 10]
    return y * len(sides) + large.sum()


def of_the_maps_type(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Of the map the type alone is taken."""
    sides = x.new_tensor([x.shape[2], x.shape[3]])
    counted = x.new_zeros(2)
    counted[0] = 5
    square = torch.equal(sides, sides.flip(0).to(x))
    return y * float(counted[0]) if square else y / float(sides.max())


EVERY = [to_eighths, over_axes, over_listed_axes, turn_by_turn, by_item, by_a_branch, by_numpy, by_a_length,
         by_membership, written_into, as_many_as_there_are, of_the_maps_type]  # fmt: skip


@pytest.mark.parametrize("how", EVERY, ids=lambda how: how.__name__)
def test_they_are_what_they_are_in_a_run(how: How) -> None:
    model = Net(how).eval()
    x, other = torch.randn(2, 3, 20, 20), torch.randn(1, 3, 7, 29)
    patched = inject(model, "eca", init="identity", example_inputs=(x,))
    assert torch.equal(patched(x), model(x))
    try:
        out = patched(other)
    except GuardError as error:
        assert "test_numbers_of_sizes.py" in str(error)
    else:
        assert torch.equal(out, model(other))


def test_what_is_decided_is_a_guard() -> None:
    patched = inject(Net(to_eighths), "eca", example_inputs=(torch.randn(2, 3, 20, 20),))
    assert patched(torch.randn(2, 3, 17, 9)).shape == (2, 4, math.ceil(17 / 8) * 8, 9)
    with pytest.raises(GuardError, match=r"int\(torch.ceil.* came to 3, and this input makes it 4"):
        patched(torch.randn(2, 3, 25, 9))
    # Another outcome of an `if` is another network.
    with pytest.raises(GuardError, match="came to True, and this input makes it False"):
        inject(Net(by_a_branch), "eca", example_inputs=(torch.randn(2, 3, 20, 20),))(torch.randn(2, 3, 10, 10))
    # What stays a tensor, or goes into an operation, is free.
    assert inject(Net(by_item), "eca").injection.guards == ()


@pytest.mark.parametrize(
    "how",
    [
        lambda x, y: y * 2 if torch.rand(x.ndim)[0] > 0.5 else y,
        lambda x, y: y * 2 if torch.empty(x.ndim)[0] > 0.5 else y,
        lambda x, y: y * 2 if torch.zeros(x.ndim).bernoulli()[0] > 0.5 else y,
        lambda x, y: y * 2 if torch.zeros_like(x).sum() + x.mean() > 0.5 else y,
    ],
    ids=["drawn", "uninitialised", "drawn by a method", "of a map"],
)
def test_what_is_no_fact_of_the_size_is_refused(how: How) -> None:
    with pytest.raises(TraceError, match="test_numbers_of_sizes.py"):
        inject(Net(how), "eca")


def through_a_view(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    sizes = torch.zeros(x.ndim)
    sizes.view(-1).add_(x.shape[2])
    return y * int(sizes[0])


def read_by_a_view(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    sizes = torch.zeros(x.ndim)
    same = sizes.view(-1)
    sizes.add_(x.shape[2])
    return y * int(same[0])


def under_another_name(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    sizes = same = torch.zeros(x.ndim)
    same += x.shape[2]
    return y * int(sizes[0])


def as_the_place_of_a_sum(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    sizes = torch.zeros(x.ndim)
    torch.add(sizes, x.shape[2], out=sizes)
    return y * int(sizes[0])


@pytest.mark.parametrize("how", [through_a_view, read_by_a_view, under_another_name, as_the_place_of_a_sum])
def test_what_is_written_into_under_another_name_has_no_numbers(how: How) -> None:
    with pytest.raises(TraceError, match=r"a number of (the data|a tensor) is asked for"):
        inject(Net(how), "eca", example_inputs=(torch.randn(2, 3, 20, 20),))


class Counting(Net):
    """Decides on a tensor that it holds, and has changed in every run."""

    def __init__(self, count: Callable[[Any, torch.Tensor], None]) -> None:
        super().__init__(lambda x, y: y)
        self.seen = torch.tensor(0)
        self.count = count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        many = self.seen * x.shape[1] > 9
        self.count(self, x)
        return y * 2 if many or self.seen > 6 else y


def _anew(model: Any, x: torch.Tensor) -> None:
    model.seen = model.seen + x.shape[0]


def _in_place(model: Any, x: torch.Tensor) -> None:
    model.seen += x.shape[0]


def _by_itself(model: Any, x: torch.Tensor) -> None:
    model.seen += 1


@pytest.mark.parametrize("count", [_anew, _in_place, _by_itself])
def test_what_the_model_holds_is_no_fact_since_it_may_count_in_it(
    count: Callable[[Any, torch.Tensor], None],
) -> None:
    with pytest.raises(TraceError, match="cannot be used as inputs to control flow"):
        inject(Counting(count), "eca")
