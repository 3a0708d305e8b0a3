"""Every recipe as a user runs it: built with weights, patched, verified, its expectations checked."""

from __future__ import annotations

import pytest

from attn_inject.cli.main import run
from attn_inject.planning.recipe import names


@pytest.mark.zoo
@pytest.mark.parametrize("name", names())
def test_a_recipe_runs(name: str) -> None:
    assert run(["--recipe", name, "--no-bench"]) == 0
