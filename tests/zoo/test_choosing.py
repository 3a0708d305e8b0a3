"""The brute-force benchmark of `choose`, short: few steps, one network, one seed."""

from __future__ import annotations

import pytest

from tests.bench.choosing import BUDGETS, study, table

pytestmark = pytest.mark.zoo


def test_what_is_chosen_on_digits_is_better_than_random_sites_and_never_the_placebo() -> None:
    found = study(network=0, seeds=1, steps=60)
    assert found.placebos == 0
    assert len(found.losses) == 16
    for budget, most in BUDGETS.items():
        regrets = dict(found.regrets(budget))
        assert len(found.chosen[budget]) <= most
        assert 0 <= regrets["choose"] < regrets["random"] < regrets["none"]
    assert table([found]).count("\n") == 2 + len(BUDGETS) + 1
