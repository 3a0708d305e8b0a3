"""Models that average the weights of one part into another, pair by pair: attention goes into both, or into none."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_inject import PlanError, RewriteError, attach, inject
from tests.toys import Residual


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
        # Its attention comes before the head, whose weights no longer have their place.
        self.block = Residual(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.last = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.head(self.block(self.stem(x)).mean((2, 3))))


class Momentum(nn.Module):
    """After He et al. 2020, "Momentum contrast", https://arxiv.org/abs/1911.05722."""

    def __init__(self) -> None:
        super().__init__()
        self.query = Encoder()
        self.key = copy.deepcopy(self.query).requires_grad_(False)

    @torch.no_grad()
    def average(self) -> None:
        for new, held in zip(self.query.parameters(), self.key.parameters(), strict=False):
            held.data = held.data * 0.9 + new.data * 0.1

    def forward(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        query = F.normalize(self.query(x), dim=1)
        with torch.no_grad():
            self.average()
            key = F.normalize(self.key(other), dim=1)
        return (query * key).sum(1)


IMAGES = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)


@pytest.mark.parametrize("chosen", [{"exclude": "key.*"}, {"scope": "query", "input_size": 8}])
def test_attention_in_one_of_the_two_is_refused(chosen: dict[str, Any]) -> None:
    given = {} if "scope" in chosen else {"example_inputs": IMAGES}
    with pytest.raises((RewriteError, PlanError), match="of two parts in pairs wants attention in both"):
        attach(Momentum(), "eca", **chosen, **given)


def test_a_graph_of_one_of_the_two_is_refused() -> None:
    with pytest.raises(PlanError, match="the model around query does not run with a graph in its place"):
        inject(Momentum(), "eca", scope="query", input_size=8)


def test_attention_in_both_is_averaged_too() -> None:
    model = Momentum()
    attached: Any = attach(model, "eca", example_inputs=IMAGES)
    assert [one.site.block for one in attached.injection.plan.insertions] == ["query.block", "key.block"]
    query, key = attached.query.block.eca.conv.weight, attached.key.block.eca.conv.weight
    expected = key.detach() * 0.9 + query.detach() * 0.1
    attached(*IMAGES)
    assert torch.allclose(attached.key.block.eca.conv.weight, expected)
