"""Networks grown from seeds: the sites that were put there and no others, an identity start, gates that act."""

from __future__ import annotations

import pytest

from .grown import faults, grow


@pytest.mark.parametrize("seed", range(16))
def test_what_was_put_there_is_found(seed: int) -> None:
    assert list(faults(seed)) == []


@pytest.mark.zoo
@pytest.mark.parametrize("start", range(1000, 1500, 50))
def test_many_more(start: int) -> None:
    assert [fault for seed in range(start, start + 50) for fault in faults(seed)] == []


def test_seeds_give_what_they_gave_and_differ() -> None:
    assert str(grow(3)[0]) == str(grow(3)[0])
    assert len({str(grow(seed)[0]) for seed in range(20)}) == 20
    kinds = {kind for seed in range(30) for _, kind in grow(seed)[1]}
    assert kinds == {"residual", "mixed"}
