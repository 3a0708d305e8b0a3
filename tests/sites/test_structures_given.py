"""Inputs in a list, a dict or a tuple: each is an input of its own, as if it were an argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import find_sites

from ..toys import conv

A, B = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)


class Streams(nn.Module):
    """Two streams that `join` brings together, and a residual block on the first."""

    def __init__(self, join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], given: str) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8), nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8))
        self.head, self.join, self.given = conv(8, 4), join, given

    def forward(self, x: Any, y: torch.Tensor | None = None) -> torch.Tensor:
        if self.given == "unpacked":
            x, y = x
        elif self.given == "dict":
            x, y = x["left"], x["right"]
        elif self.given == "list":
            # Taken out twice.
            return self.head(self.join(self.a(x[0]), self.b(x[1])) + self.b(x[0])[:, :8])
        assert y is not None
        return self.head(self.join(self.a(x), self.b(y)) + self.b(x)[:, :8])


INPUTS: dict[str, Any] = {
    "arguments": (A, B),
    "list": ([A, B],),
    "unpacked": ((A, B),),
    "dict": ({"left": A, "right": B},),
}
JOINS: dict[str, Any] = {
    "add": torch.add,
    "cat": lambda a, b: torch.cat([a, b], 1)[:, :8],
    "difference": lambda a, b: a - b,
}


@pytest.mark.parametrize("join", JOINS.values(), ids=JOINS)
@pytest.mark.slow
def test_sites_and_reasons_are_those_of_arguments(join: Any) -> None:
    seen = {}
    for given, inputs in INPUTS.items():
        sites = find_sites(Streams(join, given), example_inputs=inputs)
        seen[given] = [(site.block, site.kind) for site in sites], [skipped.reason for skipped in sites.skipped]
    assert len({str(each) for each in seen.values()}) == 1, seen
    assert not any("slices of one split" in reason for _, reasons in seen.values() for reason in reasons)


class Block(nn.Module):
    """A residual block on what it takes out of its input twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 3)), conv(3, 4)

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        return self.last(x[0] + self.body(x[0]))


def test_what_is_taken_out_twice_is_one_value() -> None:
    (site,) = find_sites(Block(), example_inputs=([A],))
    assert site.kind == "residual"
