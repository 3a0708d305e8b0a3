"""`attn-inject attentions`: families, figures, and the width of the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from attn_inject.attention.catalogue import FAMILIES, catalogue


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_fits_the_terminal(cli: Callable, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    ran = cli("attentions")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert max(map(len, lines)) <= columns
    rows = {line.split()[0]: line.split() for line in lines if line.startswith("  ") and line[2] != " "}
    assert set(rows) == {entry.name for entry in catalogue()}
    assert rows["se"][1:7] == ["8,192", "2017", "early", "1,2,3", "yes", "1709.01507"]
    assert rows["psa"][3] == "-"
    headings = [line for line in lines if line in FAMILIES]
    assert headings == [family for family in FAMILIES if catalogue(family)]
    words = " ".join(ran.out.split())
    assert "CBAM (sort-of)" in words
    assert all(f": {entry.unlike})" in words for entry in catalogue() if entry.unlike)


def test_one_family(cli: Callable) -> None:
    lines = cli("attentions", "--family", "branch").out.splitlines()
    assert any(line.startswith("  psa ") for line in lines)
    assert not any(line.startswith(("  se ", "  timm:")) for line in lines)
    wrong = cli("attentions", "--family", "chanel")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert "did you mean channel" in wrong.err


def test_as_json(cli: Callable) -> None:
    rows = json.loads(cli("attentions", "--family", "channel", "--json", "-").out)
    (se,) = [row for row in rows if row["name"] == "se"]
    assert (se["parameters"], se["year"], se["axes"], se["early_squeeze"], se["exports"]) == (
        8192, 2017, [1, 2, 3], True, True,
    )  # fmt: skip
