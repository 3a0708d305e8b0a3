"""A page in Chromium without a window: opened at several widths at once, looked at by a script, and what that saw."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium is installed, so the page cannot be opened; apt install chromium"
)
WIDTHS = (1280, 800, 400)
# A4 and letter, less the margins that browsers leave.
PAPER = (718, 740)

_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
          "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
          "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000"]  # fmt: skip

# What every page is asked for; runs in the page, after its own script.
_LOOK = """
<script>
addEventListener("load", async () => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const pause = () => new Promise((done) => setTimeout(done, 60));
  const wide = () => document.scrollingElement.scrollWidth - document.documentElement.clientWidth;
  const seen = { width: innerWidth, overflow: [wide()] };
  seen.pieces = all(".piece").length;
  seen.sites = all(".piece.site").length;
  seen.unreachable = all(".piece").filter((each) => {
    each.focus();
    const told = document.querySelector(".readout").textContent === each.title;
    return !told || document.activeElement !== each || each.tabIndex < 0;
  }).map((each) => each.title);
  const inside = (inner, outer, slack) =>
    inner.left >= outer.left - slack && inner.right <= outer.right + slack;
  seen.labels = all(".piece").filter((each) => {
    const label = each.querySelector("span").getBoundingClientRect(), box = each.getBoundingClientRect();
    return label.top < box.bottom - 4 && !inside(label, box, 1);
  }).map((each) => each.title);
  for (const key of ["macs", "parameters"]) {
    const before = all(".piece").map((each) => each.getBoundingClientRect().width);
    document.getElementById("by-" + key)?.click();
    seen[key] = all(".piece").some((each, i) => Math.abs(each.getBoundingClientRect().width - before[i]) > 1);
    seen.overflow.push(wide());
  }
  const link = all("a.piece").at(-1);
  if (link) {
    const target = document.getElementById(link.hash.slice(1));
    target.open = false;
    link.click();
    await pause();
    seen.opened = target.open;
  }
  for (const each of all("details")) each.open = true;
  seen.overflow.push(wide());
  // What is cut off on paper, where the page cannot be scrolled.
  seen.scrolled = all("body *").filter((each) =>
    each.scrollWidth > each.clientWidth + 1 && ["auto", "scroll"].includes(getComputedStyle(each).overflowX)
  ).map((each) => each.tagName + "." + each.className);
  seen.buttons = all("button.copy").filter((each) => each.offsetParent !== null).length;
  seen.boxes = 0;
  seen.tight = [];
  seen.behind = [];
  for (const graph of all("svg.block")) {
    const rects = [...graph.querySelectorAll("rect")].map((rect) => rect.getBBox());
    for (const node of graph.querySelectorAll(".node")) {
      seen.boxes += 1;
      const [text, rect] = ["text", "rect"].map((name) => node.querySelector(name).getBBox());
      if (text.width > rect.width - 2) seen.tight.push(node.textContent);
    }
    for (const edge of graph.querySelectorAll(".edge")) {
      const length = edge.getTotalLength();
      for (let at = 0; at <= length; at += 4) {
        const { x, y } = edge.getPointAtLength(at);
        if (rects.some((r) => x > r.x + 2 && x < r.x + r.width - 2 && y > r.y + 2 && y < r.y + r.height - 2)) {
          seen.behind.push(graph.parentElement.parentElement.textContent.slice(0, 80));
          break;
        }
      }
    }
  }
  seen.paper = getComputedStyle(document.body).backgroundColor;
  seen.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
  for (const each of all("[src], link[href]")) {
    if (!(each.src ?? each.href).startsWith("data:")) seen.requests.push(each.outerHTML);
  }
  parent.postMessage(JSON.stringify(seen), "*");
});
</script>
"""


def dump(page: Path, *, profile: Path, dark: bool = False, size: str = "1300,1000") -> str:
    """The page as it stands after its scripts; nothing may be said on the console."""
    return _opened(page, "--dump-dom", profile=profile, dark=dark, size=size)


def photograph(page: Path, picture: Path, *, profile: Path, dark: bool, size: str) -> None:
    """Write what a window of that size shows of the page into a file."""
    _opened(page, f"--screenshot={picture}", "--hide-scrollbars", profile=profile, dark=dark, size=size)


def _opened(page: Path, *asked: str, profile: Path, dark: bool, size: str) -> str:
    flags = [*_FLAGS, *asked, f"--user-data-dir={profile}", f"--window-size={size}"]
    flags += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    run = subprocess.run([str(BROWSER), *flags, page.as_uri()], capture_output=True, text=True, timeout=300, check=True)
    assert re.findall(r".*:CONSOLE.*", run.stderr) == []
    return run.stdout


def look(page: str, folder: Path, *, dark: bool, widths: Sequence[int] = WIDTHS) -> list[dict[str, Any]]:
    """What `_LOOK` saw of a page at each width."""
    inner, outer = folder / "page.html", folder / "frames.html"
    inner.write_text(page.replace("</body>", f"{_LOOK}</body>"), encoding="utf-8")
    frames = "".join(
        f'<iframe src="{escape(inner.as_uri())}" width="{width}" height="900"></iframe>' for width in widths
    )
    outer.write_text(
        "<!DOCTYPE html><pre id=seen></pre><script>addEventListener('message', (event) => "
        "document.getElementById('seen').append(event.data + '\\n'));</script>" + frames,
        encoding="utf-8",
    )
    found = re.search(r'<pre id="seen">(.*?)</pre>', dump(outer, profile=folder / "profile", dark=dark), re.DOTALL)
    assert found is not None
    return sorted((json.loads(line) for line in unescape(found[1]).splitlines()), key=lambda seen: -seen["width"])


def assert_fits(page: str, folder: Path, *, sites: int) -> None:
    """No overflow, no error, nothing fetched, every block in reach, labels in their boxes, no edge behind one."""
    papers = []
    for dark in (False, True):
        views = look(page, folder, dark=dark)
        assert [view["width"] for view in views] == list(WIDTHS)
        for view in views:
            assert max(view["overflow"]) <= 0
            assert view["requests"] == []
            assert view["sites"] == sites
            assert view["unreachable"] == view["labels"] == view["tight"] == view["behind"] == []
            assert view["macs"]
            assert view["parameters"]
            assert view["boxes"] > 0
            assert view["opened"]
        papers.append({view["paper"] for view in views})
    assert len(papers[0]) == len(papers[1]) == 1
    assert papers[0] != papers[1]
