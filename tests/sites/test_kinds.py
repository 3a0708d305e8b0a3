"""What a caller may say for kinds."""

from __future__ import annotations

from typing import Any

import pytest

from attn_inject import PlanError
from attn_inject.sites.kinds import checked_kinds

ALL = "residual, mixed, plain, stage, attention"


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        ("plain", ("plain",)),
        (("mixed", "residual"), ("residual", "mixed")),
        (["attention", "stage", "plain", "mixed", "residual"], ("residual", "mixed", "plain", "stage", "attention")),
        (("stage", "stage"), ("stage",)),
        (iter(["plain", "mixed"]), ("mixed", "plain")),
    ],
)
def test_kinds_in_their_usual_order(given: Any, kinds: tuple[str, ...]) -> None:
    assert checked_kinds(given) == kinds


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", f"kinds are {ALL}; got none"),
        ((), f"kinds are {ALL}; got none"),
        ("residul", f"kinds are {ALL}; got residul (did you mean residual?)"),
        (("plain", "bottleneck", "stages"), f"kinds are {ALL}; got bottleneck, stages"),
        (("mixt", 3), f"kinds are {ALL}; got mixt, 3 (did you mean mixed?)"),
    ],
)
def test_other_kinds_are_refused(given: Any, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        checked_kinds(given)
    assert str(caught.value) == message
