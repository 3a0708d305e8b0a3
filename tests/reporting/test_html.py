"""The HTML page, as text and in a real browser without a window."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from attn_inject.reporting.report import Report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

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


@pytest.mark.skipif(
    BROWSER is None, reason="no Chromium is installed, so the page cannot be opened; apt install chromium"
)
def test_the_page_in_a_browser(fixed: Report, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    # Sorting starts from an order that is neither ascending nor descending.
    fixed = replace(fixed, sites=(fixed.sites[2], fixed.sites[0], fixed.sites[3], fixed.sites[1]))
    fixed.to_html(page)
    page.write_text(page.read_text("utf-8").replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--window-size=1200,1600", "--enable-logging=stderr"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    run = subprocess.run([str(BROWSER), *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert re.findall(r".*:CONSOLE.*", run.stderr) == []
    found = re.search(r'<pre id="probe">(.*?)</pre>', run.stdout, re.DOTALL)
    assert found is not None, "a script of the page failed"
    seen = json.loads(unescape(found.group(1)))
    assert seen["requests"] == []
    assert seen["start"] == ["layer2.0", "layer1.0", "layer2.1", "layer1.1"]
    assert seen["ascending"] == ["layer2.0", "layer2.1", "layer1.0", "layer1.1"]
    assert seen["marked"] == "ascending"
    assert seen["descending"] == seen["ascending"][::-1]
    assert seen["byName"] == ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]
    assert seen["sums"] == 2
    assert len(seen["charts"]) == 5
    assert all(width > 200 for width in seen["charts"])
    assert seen["graphs"] == 2
    assert seen["marks"] == ["se"]
    assert seen["newColour"] != seen["keptColour"]
    assert not seen["overflow"]


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
    page = replace(fixed, title=evil, notes=(evil,), sites=(site,), diffs=(diff,)).to_html()
    assert evil not in page
    assert page.count("<script>") == 1


def test_a_report_without_sites_or_timings_has_a_page_too(fixed: Report) -> None:
    page = replace(fixed, sites=(), stages=(), speeds=(), diffs=(), notes=(), unknown={}, not_kept=()).to_html()
    assert "Totals" in page
    assert "<svg" not in page


def test_a_notebook_shows_the_page_in_a_frame_of_its_own(fixed: Report) -> None:
    shown = fixed._repr_html_()
    assert shown.startswith("<iframe ")
    assert unescape(shown.split('srcdoc="')[1].split('"')[0]) == fixed.to_html()


def test_the_page_is_the_same_every_time(fixed: Report) -> None:
    assert fixed.to_html() == fixed.to_html()
