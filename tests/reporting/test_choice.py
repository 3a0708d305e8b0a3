"""A choice's views: in the terminal, as a page that holds together at every width, and as charts."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from rich.console import Console

from attn_inject import AttnInjectError
from attn_inject.cost.samples import Latency
from attn_inject.reporting.views.choice_html import to_html
from attn_inject.reporting.views.choice_plot import charts, save_plot
from attn_inject.reporting.views.choice_text import render_choice
from attn_inject.studying.choice import Choice, SetRow, SiteWorth
from attn_inject.studying.prices import Price
from attn_inject.types import Effect, Plan

from .browser import look, needs_browser


def site(block: str, module: str, worth: float = 0.1, attention: str = "eca", *, chosen: bool = False) -> SiteWorth:
    effect = Effect(worth, worth - 0.05, worth + 0.05)
    return SiteWorth(block, "residual", 2, 8, attention, module, effect, (worth,), Price(3, 10, 10, 0.002), chosen)


def row(name: str, gain: float | None, *, fits: bool = True) -> SetRow:
    effect = None if gain is None else Effect(gain, gain - 0.05, gain + 0.05)
    return SetRow(name, (), 2, Price(30, 100, 100), fits, 0.4 - (gain or 0), 0.9, effect)


@pytest.fixture
def choice() -> Choice:
    """Figures that no machine has a say in: two attentions, every way to spend the budget, every verdict."""
    return Choice(
        title="net + eca or se",
        data="images of val",
        images=(600, 300, 290),
        seeds=3,
        steps=150,
        budget="latency=1.03",
        plan=Plan(attention="eca", insertions=(), notes=("chosen: no site, since none fits",)),
        sites=(
            site("layer1.0", "layer1.0.eca", 0.1, chosen=True),
            site("layer1.0", "layer1.0.se", 0.01, "se:reduction=4"),
            site("layer2.0", "layer2.0.eca", -0.2),
        ),
        rows=(
            row("chosen", 0.16), row("none", None), row("all", 0.18, fits=False), row("last stage", -0.1),
            row("every second", 0.12), row("random", 0.01),
        ),
        plain=Price(45_000, 1_200_000, 9, 1.0),
        basis="measured",
        latency=Latency(1.021, 1.018, 1.025, 0.95, 40, contended=False),
        notes=("what training all of it would give was not measured",),
    )  # fmt: skip


def text(choice: Choice) -> str:
    written = io.StringIO()
    console = Console(file=written, width=80)
    for part in render_choice(choice):
        console.print(part)
    return written.getvalue()


def test_sites_of_one_block_bear_the_names_of_their_attention() -> None:
    sites = (site("a", "a.eca"), site("b", "b.eca"), site("b", "b.eca2"))
    choice = Choice("net + eca", "noise", (1, 1, 1), 1, 1, "", Plan(attention="eca", insertions=()), sites, (), Price())
    rows = [line.split()[:2] for line in text(choice).splitlines() if line.startswith(("a", "b "))]
    assert rows == [["a", "pays"], ["b", "eca"], ["b", "eca2"]]


def test_the_terminal_says_how_long_the_chosen_set_takes_where_that_was_resolved(choice: Choice) -> None:
    said = "the chosen set takes 1.021 times the plain model's time (95 % interval 1.018 to 1.025, 40 pairs)"
    assert said in " ".join(text(choice).split())
    assert choice.latency is not None
    assert "the chosen set takes" not in text(replace(choice, latency=replace(choice.latency, contended=True)))
    assert max(map(len, text(choice).splitlines())) <= 80


def test_the_page_needs_nothing_else_and_has_sites_sets_and_budget(choice: Choice) -> None:
    page = unescape(to_html(choice))
    assert not re.search(r"(src|href)=.https?:", re.sub(r"xlink:href|rdf:resource", "", page))
    assert "budget latency=1.03; the plain model has 45,000 parameters and 1.20 M FLOPs" in page
    assert "600 images trained on, 300 measured on, 290 judged by; 3 seeds of 150 steps" in page
    for cells in (
        "<td>layer1.0</td><td>eca</td><td>chosen</td>",
        "<td>layer1.0</td><td>se:reduction=4</td><td>not seen</td>",
        "<td>layer2.0</td><td>eca</td><td>harms</td>",
        "<td>chosen</td><td>better than none</td>",
        "<td>none</td><td>–</td>",
        "<td>all (too dear)</td><td>better than none</td>",
        "<td>last stage</td><td>WORSE than none</td>",
        "<td>every second</td><td>better than none</td>",
        "<td>random</td><td>no difference seen</td>",
    ):
        assert cells in page
    assert 'data-key="0.01">0.0100</td><td class="number" data-key="-0.04">-0.0400 … 0.0600</td>' in page
    assert "<li>chosen: no site, since none fits</li>" in page
    assert "the chosen set takes 1.021 times" in page
    assert "was not measured" in page
    assert page.count("<svg") == len(charts(choice)) == 2


def test_names_are_text_on_the_page(choice: Choice) -> None:
    bad = "<script>alert(1)</script>"
    assert bad not in to_html(replace(choice, title=bad, data=bad, sites=(site(bad, f"{bad}.eca"),)))


@pytest.mark.slow
@needs_browser
def test_the_page_fits_every_width(choice: Choice, tmp_path: Path) -> None:
    for view in look(to_html(choice), tmp_path, dark=False):
        assert max(view["overflow"]) <= 0
        assert view["requests"] == []


def test_charts_are_drawn_of_what_there_is(choice: Choice, tmp_path: Path) -> None:
    save_plot(choice, tmp_path / "choice.svg")
    drawn = (tmp_path / "choice.svg").read_text()
    for name in ("layer1.0 se:reduction=4", "layer2.0 eca", "all (too dear)", "every second"):
        assert name in drawn
    few = replace(choice, rows=(), sites=tuple(replace(s, worth=Effect(0.1, None, None)) for s in choice.sites))
    assert len(charts(few)) == 1
    save_plot(few, tmp_path / "few.png")
    with pytest.raises(AttnInjectError, match="no site to draw"):
        save_plot(replace(choice, rows=(), sites=()), tmp_path / "none.png")
