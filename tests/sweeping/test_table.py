from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console
from scipy import stats

from attn_inject import CheckpointError
from attn_inject.sweeping.rows import COLUMNS, Row, mean_interval
from attn_inject.sweeping.table import SweepTable

FULL = Row(
    model='nets.py:"net", the first',
    attention="psa:kernels=3,5",
    placement="post",
    options='{"input_size": 16}',
    sites=2,
    parameters=2**40,
    macs=1,
    flops=-2,
    traffic=0,
    traffic_ratio=1 / 3,
    model_parameters=10,
    model_macs=20,
    model_flops=30,
    model_traffic=40,
    convention="all",
    latency_ratio=1.06,
    latency_low=1.04,
    latency_high=1.08,
    latency_confidence=0.95,
    latency_pairs=24,
    latency_resolved=True,
    latency_contended=False,
    latency_seconds=0.0123,
    model_latency_seconds=0.0116,
    device="CPU (ünusual), float32, batch 1",
    accuracy=0.7,
    accuracy_low=0.6,
    accuracy_high=0.8,
    accuracies=(0.1 + 0.2, 1e-17),
    seconds=1.5,
    versions="python 3, torch 2",
)
FAILED = Row(model="n", attention="se", placement="standard", error="it said 'no',\nand more; \"quoted\"")
TABLE = SweepTable((FULL, FAILED, Row(model="m", attention="none", placement="", sites=0)))


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_file_holds_every_value(tmp_path: Path, name: str) -> None:
    assert {column for column in COLUMNS if getattr(FULL, column) is None} == {"error"}
    TABLE.write(tmp_path / name)
    assert SweepTable.read(tmp_path / name) == TABLE
    SweepTable(()).write(tmp_path / name)
    assert SweepTable.read(tmp_path / name) == SweepTable(())


def test_the_files_are_ordinary_ones(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == list(COLUMNS)
    assert (lines[0]["latency_resolved"], lines[0]["accuracies"]) == ("true", "0.30000000000000004 1e-17")
    assert (lines[1]["sites"], lines[2]["placement"]) == ("", "")
    parquet = pytest.importorskip("pyarrow.parquet")
    SweepTable((FAILED,)).to_parquet(tmp_path / "t.parquet")
    types = {field.name: str(field.type) for field in parquet.read_schema(tmp_path / "t.parquet")}
    assert (types["sites"], types["traffic_ratio"], types["latency_resolved"]) == ("int64", "double", "bool")
    assert json.loads(TABLE.to_json())["rows"][0]["accuracies"] == [0.1 + 0.2, 1e-17]


def test_it_is_a_sequence() -> None:
    assert len(TABLE) == 3
    assert TABLE[0] is FULL
    assert TABLE[1:] == TABLE.rows[1:]
    assert list(TABLE) == list(TABLE.rows)
    assert TABLE.errors == (FAILED,)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.txt", "", "ending is .csv or .parquet"),
        ("missing.csv", None, "there is no file"),
        ("t.csv", "a,b\n1,2\n", "not a sweep's table: it has no column model, attention, placement"),
        ("t.csv", "", "no column"),
        ("t.csv", "model,attention,placement,sites\nm,se,standard,many\n", "not a sweep's table: invalid literal"),
        ("t.csv", "model,attention,placement,latency_resolved\nm,se,standard,perhaps\n", "yes or no"),
        ("t.csv", "model,attention,placement\n\n", None),
        ("t.parquet", "PAR1", "not a sweep's table"),
    ],
)
def test_what_is_no_table_is_told_so(tmp_path: Path, name: str, content: str | None, said: str | None) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    if said is None:
        assert SweepTable.read(tmp_path / name) == SweepTable(())
        return
    with pytest.raises(CheckpointError, match=said):
        SweepTable.read(tmp_path / name)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CheckpointError, match=r"pip install 'attn-inject\[sweep\]'"):
        TABLE.write(tmp_path / "t.parquet")


def test_the_view(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=80).print(TABLE)
    shown = capsys.readouterr().out
    assert "1.060 (1.040–1.080)" in shown
    assert "0.7 ± 0.1" in shown
    assert "3 rows, 1 with an error" in shown
    assert "! n + se: it said 'no'," in shown
    assert max(map(len, shown.splitlines())) <= 80
    Console(width=120).print(SweepTable((Row(model="m", attention="se", placement="pre", sites=1, macs=1000),)))
    assert "se (pre)" in capsys.readouterr().out
    ways = [
        Row(model="m", attention="se", options=text, sites=1) for text in ('{"stages": [2]}', None, '{"init": "[b]"}')
    ]
    Console(width=120).print(SweepTable(tuple(ways)))
    shown = capsys.readouterr().out
    assert 'se {"stages": [2]}' in shown
    assert 'se {"init": "[b]"}' in shown
    Console(width=120).print(SweepTable(tuple(ways[:2])))
    assert "stages" not in capsys.readouterr().out


@pytest.mark.parametrize("count", [2, 3, 5, 11, 12, 13, 20, 50, 200])
def test_the_interval_is_students(count: int) -> None:
    values = [0.5 + ((7 * index) % 11) / 100 for index in range(count)]
    mean, low, high = mean_interval(values)
    wanted = stats.t.interval(0.95, count - 1, loc=mean, scale=stats.sem(values))
    assert (low, high) == pytest.approx(wanted, rel=1e-5)


def test_one_value_has_no_interval() -> None:
    assert mean_interval([0.5]) == (0.5, None, None)


def test_it_prints_itself() -> None:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(TABLE)
    assert str(TABLE).split() == capture.get().split()
    assert "psa:kernels" in str(TABLE)
