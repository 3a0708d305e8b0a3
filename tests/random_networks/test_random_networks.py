"""Sites by path, the identity to the bit, and attention that learns, in networks that nobody has written."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from attn_inject import inject

from ..by_hand import every_other
from . import checking
from .adding import ADDING
from .checking import check
from .growing import Grown, grow
from .lookalikes import LOOKALIKES, PAIRS
from .mixing import MIXING, Reduction

# Each runs what other tests run already, many times over: measuring what it covers takes as long as running it.
pytestmark = pytest.mark.no_cover

SHORT, LONG = range(30), range(1000, 1150)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SHORT)
def test_a_random_network(seed: int) -> None:
    check(seed)


@pytest.mark.zoo
@pytest.mark.parametrize("seed", every_other(LONG))
def test_one_of_many_random_networks(seed: int) -> None:
    check(seed)


def test_a_seed_is_a_network() -> None:
    first, again = grow(3), grow(3)
    assert first.blocks == again.blocks
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    )
    assert str(first.model) == str(again.model) != str(grow(4).model)


def test_few_seeds_grow_most_of_what_there_is() -> None:
    """What no seed draws is not tested: the modules of the short form are counted."""
    drawn = Counter(type(module).__name__ for seed in range(100) for module in grow(seed).model.modules())
    assert {
        kind.__name__ for kind in (*ADDING, *LOOKALIKES, *PAIRS, *MIXING, Reduction, nn.GroupNorm, nn.PReLU)
    } <= set(drawn)


def test_the_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = grow(0)
    assert grown.blocks

    def lying(seed: int) -> Grown:
        return Grown(grown.model, [*grown.blocks, "body.9"], grown.size)

    monkeypatch.setattr(checking, "grow", lying)
    with pytest.raises(AssertionError, match="missing: .'body.9'"):
        check(0)
    monkeypatch.undo()
    with pytest.raises(AssertionError, match="not the identity in eval mode"):
        checking._check_same(
            grown.model, inject(grown.model, "eca", input_size=grown.size), torch.randn(2, *grown.size)
        )
    same = inject(grown.model, "eca", init="identity", input_size=grown.size)
    with pytest.raises(AssertionError, match="changes nothing"):
        checking._check_acting(grown.model, same, torch.randn(2, *grown.size))
