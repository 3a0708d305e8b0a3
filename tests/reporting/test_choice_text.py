"""The table of a choice tells its sites apart."""

from __future__ import annotations

import io

from rich.console import Console

from attn_inject.reporting.views.choice_text import render_choice
from attn_inject.studying.choice import Choice, SiteWorth
from attn_inject.studying.prices import Price
from attn_inject.types import Effect, Plan


def site(block: str, module: str) -> SiteWorth:
    worth = Effect(0.1, 0.05, 0.15)
    return SiteWorth(block, "residual", 2, 8, "eca", module, worth, (0.1,), Price(3, 10, 10))


def test_sites_of_one_block_bear_the_names_of_their_attention() -> None:
    sites = (site("a", "a.eca"), site("b", "b.eca"), site("b", "b.eca2"))
    choice = Choice("net + eca", "noise", (1, 1, 1), 1, 1, "", Plan(attention="eca", insertions=()), sites, (), Price())
    written = io.StringIO()
    console = Console(file=written, width=80)
    for part in render_choice(choice):
        console.print(part)
    rows = [line.split()[:2] for line in written.getvalue().splitlines() if line.startswith(("a", "b "))]
    assert rows == [["a", "pays"], ["b", "eca"], ["b", "eca2"]]
