"""The HTML page, as text and in a real browser without a window."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from attn_inject.reporting.report import Report
from attn_inject.reporting.views.strip import strip
from attn_inject.reporting.views.tiles import tiles

from .browser import PAPER, assert_fits, dump, look, needs_browser

# Runs in the page after its own script: clicks heads, and leaves what it saw in an element that the dumped page shows.
PROBE = """
<script>
const column = (n) => [...document.querySelectorAll("#sites tbody tr")].map((row) => row.cells[n].textContent);
const click = (n) => document.querySelectorAll("#sites thead button")[n].click();
const names = [...document.querySelectorAll("#sites thead button")].map((button) => button.textContent);
const seen = { names, start: column(0) };
click(names.indexOf("FLOPs"));
seen.ascending = column(0);
seen.marked = document.querySelectorAll("#sites thead th")[names.indexOf("FLOPs")].getAttribute("aria-sort");
click(names.indexOf("FLOPs"));
seen.descending = column(0);
click(0);
seen.byName = column(0);
seen.sums = document.querySelectorAll("#sites tfoot tr").length;
seen.charts = [...document.querySelectorAll(".charts svg")].map((chart) => chart.getBoundingClientRect().width);
seen.graphs = document.querySelectorAll("svg.block").length;
seen.marks = [...document.querySelectorAll("svg.block .node.new text")].map((text) => text.textContent);
seen.newColour = getComputedStyle(document.querySelector("svg.block .node.new rect")).stroke;
seen.keptColour = getComputedStyle(document.querySelector("svg.block .node.kept rect")).stroke;
seen.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
seen.overflow = document.documentElement.scrollWidth > document.documentElement.clientWidth;
const note = document.createElement("pre");
note.id = "probe";
note.textContent = JSON.stringify(seen);
document.body.append(note);
</script>
"""


@needs_browser
def test_the_page_in_a_browser(fixed: Report, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    # Sorting starts from an order that is neither ascending nor descending.
    fixed = replace(fixed, sites=(fixed.sites[2], fixed.sites[0], fixed.sites[3], fixed.sites[1]))
    fixed.to_html(page)
    page.write_text(page.read_text("utf-8").replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    text = dump(page, profile=tmp_path / "profile")
    found = re.search(r'<pre id="probe">(.*?)</pre>', text, re.DOTALL)
    assert found is not None, "a script of the page failed"
    seen = json.loads(unescape(found.group(1)))
    assert seen["requests"] == []
    assert seen["start"] == ["layer2.0", "layer1.0", "layer2.1", "layer1.1"]
    assert seen["ascending"] == ["layer2.0", "layer2.1", "layer1.0", "layer1.1"]
    assert seen["marked"] == "ascending"
    assert seen["descending"] == seen["ascending"][::-1]
    assert seen["byName"] == ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]
    assert seen["sums"] == 2
    assert len(seen["charts"]) == 6
    assert all(width > 200 for width in seen["charts"])
    assert seen["graphs"] == 2
    assert seen["marks"] == ["se"]
    assert seen["newColour"] != seen["keptColour"]
    assert not seen["overflow"]


@pytest.mark.slow
@needs_browser
def test_the_page_fits_every_width_in_light_and_in_dark(made: Report, tmp_path: Path) -> None:
    assert_fits(replace(made, command="attn-inject net.py:Net -a se").to_html(), tmp_path, sites=3)


@pytest.mark.slow
@needs_browser
def test_on_paper_the_page_is_light_and_as_wide_as_it(made: Report, tmp_path: Path) -> None:
    """As a printer sees it: its rules hold, those of screens do not, and nothing can be scrolled to."""
    page = made.to_html()
    assert page.count("@media print") == page.count("@media screen and") == 1
    printed = page.replace("@media print", "@media all").replace("@media screen", "@media print")
    screen = {view["paper"] for view in look(page, tmp_path, dark=False)}
    for dark in (False, True):
        for view in look(printed, tmp_path, dark=dark, widths=PAPER):
            assert max(view["overflow"]) <= 0
            assert {view["paper"]} == screen
            assert view["scrolled"] == []
            assert view["buttons"] == 0


def test_the_tiles_say_traffic_training_memory_and_time(fixed: Report) -> None:
    assert tiles(fixed) == [
        ("+0.32 %", ("parameters", "25.56 M → 25.64 M")),
        ("+0.06 %", ("FLOPs", "8.22 G, +4.98 M")),
        ("+8.2 %", ("memory traffic", "427.6 MB → 462.7 MB")),
        ("+25.8 %", ("kept for backward, eager", "2.75 GB → 3.46 GB")),
        ("1.065×", ("the time: CPU speed, inference",)),
        ("1.065×", ("the time: CUDA speed, training step",)),
    ]


def test_the_page_says_when_with_what_and_by_which_command_it_was_made(fixed: Report) -> None:
    page = fixed.to_html()
    assert "<code>attn-inject resnet50 --attention se</code>" in page
    assert "2026-01-02 03:04 UTC · torch 2.9.0 · Some Processor, 2 threads · Some GPU" in page
    assert 'class="copy"' not in replace(fixed, command="").to_html()


def test_the_strip_is_as_wide_as_what_blocks_cost(fixed: Report) -> None:
    stages = strip(fixed)
    assert [(stage.name, stage.size, [piece.name for piece in stage.pieces]) for stage in stages] == [
        ("stage 1", "112×112", ["conv1 … bn1"]),
        ("stage 2", "56×56", ["layer1.0", "layer1.1"]),
        ("stage 3", "28×28", ["layer2.0"]),
        ("no map", "", ["fc"]),
    ]
    first, second = stages[1].pieces
    assert (first.diff, first.is_site, second.diff) == (0, True, 0)
    assert (stages[0].pieces[0].diff, stages[0].pieces[0].is_site) == (None, False)
    # 75 of the 200 MB of its stage, the widest; 15 of these 75 are new.
    assert "--traffic:37.50%;--traffic-more:20.0%" in first.style
    assert (
        first.numbers
        == "56×56 · memory traffic 60.00 MB +15.00 MB · MACs 1.00 G · parameters 75.01 k · attention: layer1.0.se"
    )


class References(HTMLParser):
    """Collects everything in a page that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        links = {"src", "href", "xlink:href", "data", "action", "poster", "srcset"}
        self.found += [
            value for name, value in attrs if name in links and value and not value.startswith(("#", "data:"))
        ]


def test_the_page_refers_to_nothing_outside(fixed: Report) -> None:
    page = fixed.to_html()
    references = References()
    references.feed(page)
    assert references.found == []
    assert "@import" not in page
    assert re.findall(r"url\((?!#)[^)]*\)", page) == []


def test_what_a_model_says_cannot_become_markup(fixed: Report) -> None:
    evil = "<script>alert(1)</script>"
    site = replace(fixed.sites[0], block=evil, module=f"{evil}.se")
    node = replace(fixed.diffs[0].after[0], label=evil)
    diff = replace(fixed.diffs[0], blocks=(evil,), after=(node,))
    block = replace(fixed.blocks[1], paths=(evil,), sites=(f"{evil}.se",))
    report = replace(fixed, title=evil, notes=(evil,), sites=(site,), diffs=(diff,), blocks=(block,), command=evil)
    page = report.to_html()
    assert evil not in page
    assert page.count("<script>") == 1


def test_a_report_without_sites_or_timings_has_a_page_too(fixed: Report) -> None:
    page = replace(fixed, sites=(), stages=(), speeds=(), diffs=(), notes=(), blocks=()).to_html()
    assert "Totals" in page
    assert "<svg" not in page


def test_a_notebook_shows_the_page_in_a_frame_of_its_own(fixed: Report) -> None:
    shown = fixed._repr_html_()
    assert shown.startswith("<iframe ")
    assert unescape(shown.split('srcdoc="')[1].split('"')[0]) == fixed.to_html()


def test_the_page_is_the_same_every_time(fixed: Report) -> None:
    assert fixed.to_html() == fixed.to_html()
