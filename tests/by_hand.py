"""Cases that CI leaves out, since others of them run much the same code: `pytest -m bench` asks them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def by_hand(cases: Iterable[Any], left_out: Callable[[Any], bool]) -> list[Any]:
    """The cases as parameters, those that are left out under the mark `bench`; a tuple is several arguments."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=[pytest.mark.bench] * left_out(case))
        for case in cases
    ]


def every_other(cases: Iterable[Any], first: int = 0) -> list[Any]:
    """Every other case, from the `first` on; the rest by hand."""
    asked = list(cases)
    return by_hand(asked, lambda case: asked.index(case) % 2 != first)
