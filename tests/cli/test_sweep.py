"""`attn-inject sweep MODEL... -a ... --out table.csv`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from attn_inject.sweeping.table import SweepTable

TRAIN = """

def train(model, seed):
    return 0.5 + seed / 4
"""
QUICK = ("--no-latency", "--processes", "0")


@pytest.fixture
def net(toy: str) -> str:
    with Path("toy.py").open("a") as file:
        file.write(TRAIN)
    return toy


@pytest.mark.slow
def test_a_table_that_goes_on(net: str, cli: Callable) -> None:
    line = ("sweep", net, "toy.py:plain", "-a", "se", "-a", "eca:k=5", "--input-size", "16", "--out", "t.csv", *QUICK)
    ran = cli(*line, "--train", "toy.py:train", "--seeds", "2", "--placement", "standard", "--placement", "pre")
    assert (ran.code, ran.err) == (0, "")
    assert "0.625 ± 1.6" in ran.out
    assert "eca:k=5 (pre)" in ran.out
    assert "8 rows, 4 with an error" in ran.out
    assert ran.out.endswith("wrote t.csv\n")
    assert max(len(text) for text in ran.out.splitlines()) <= 80
    table = SweepTable.read("t.csv")
    assert [(row.sites, row.placement) for row in table[:2]] == [(2, "standard"), (2, "pre")]
    assert [row.options for row in table] == ['{"input_size": [16]}'] * 8
    # The same line again finds everything done, and another one is told so.
    held = Path("t.csv.journal").read_bytes()
    assert cli(*line, "--train", "toy.py:train", "--seeds", "2", "--placement", "standard").code == 0
    assert Path("t.csv.journal").read_bytes() == held
    assert len(SweepTable.read("t.csv")) == 4
    other = cli(*line)
    assert other.code == 2
    assert "journal of another sweep (train was toy.py:train and is None now" in other.err


def test_json_alone_on_standard_output(net: str, cli: Callable) -> None:
    ran = cli("sweep", net, "-a", "se", "-a", "none", "--json", "-", "-o", "reduction=8", "--input-size", "16", *QUICK)
    assert (ran.code, ran.err) == (0, "")
    rows = json.loads(ran.out)["rows"]
    assert [(row["attention"], row["sites"], row["error"]) for row in rows] == [("se", 2, None), ("none", 0, None)]
    assert rows[0]["options"] == '{"input_size": [16], "reduction": 8}'


def test_what_is_wrong_is_one_sentence(net: str, cli: Callable) -> None:
    Path("mine.csv").write_text("do not touch")
    for arguments, said in (
        (("resnet81", "-a", "se"), "resnet18"),
        ((net, "-a", "sea"), "did you mean se"),
        ((net, "-a", "se", "--placement", "top"), "is not one of"),
        ((net, "-a", "se", "-o", "reductoin=4"), "did you mean reduction"),
        ((net, "-a", "se", "--out", "t.xls"), "the ending must be one of .csv, .parquet"),
        ((net, "-a", "se", "--out", "mine.csv"), "exists already"),
        ((net, "-a", "se", "--train", "toy.py:absent"), "there is no 'absent' in toy.py"),
        ((net, "-a", "se", "--device", "abacus"), "abacus"),
        ((net,), "--attention"),
    ):
        ran = cli("sweep", *arguments, "--processes", "0")
        assert ran.code == 2, arguments
        assert said in " ".join(ran.err.split()), ran.err
        assert ran.err.count("\n") == 1
        assert ran.out == ""
    assert Path("mine.csv").read_text() == "do not touch"
    assert not list(Path().glob("*.journal"))


@pytest.mark.slow
def test_compare_shows_a_table_with_its_accuracies(net: str, cli: Callable) -> None:
    line = ("sweep", net, "-a", "se", "-a", "eca", "--input-size", "16", "--out", "t.parquet", *QUICK)
    assert cli(*line, "--train", "toy.py:train", "--seeds", "2").code == 0
    files = ("--json", "c.json", "--plot", "c.svg", "--markdown", "c.md", "--html", "c.html")
    ran = cli("compare", "--table", "t.parquet", *files)
    assert (ran.code, ran.err) == (0, "")
    assert "0.625 ± 1.6" in ran.out
    assert [each["attention"] for each in json.loads(Path("c.json").read_text())["candidates"]] == ["none", "se", "eca"]
    assert Path("c.svg").read_text().lstrip().startswith("<?xml")
    assert "0.625 ± 1.6" in Path("c.html").read_text()
    for arguments, said in (
        (("--table", "t.parquet", net), "leave this out"),
        (("--table", "t.parquet", "-a", "se"), "leave this out"),
        (("--table", "t.parquet", "--batch", "2"), "--batch"),
        (("--table", "none.csv"), "there is no file none.csv"),
        ((net,), "--attention"),
        (("-a", "se"), "MODEL"),
    ):
        refused = cli("compare", *arguments)
        assert refused.code == 2, arguments
        assert said in " ".join(refused.err.split()), refused.err
