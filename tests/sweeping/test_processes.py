"""Processes of this machine: one that dies takes its own row along and nothing else; a sweep that is killed goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attn_inject import sweep
from attn_inject.sweeping.table import SweepTable

ASKED = {"options": {"input_size": 16}, "latency": False}
SWEEP = """
import attn_inject
attn_inject.sweep(
    ["nets.py:net", "nets.py:waits"], ["se", "eca"], options={"input_size": 16}, latency=False, out="table.csv",
    processes=1,
)
"""
WAITS = """
def waits():
    import time
    Path("pid").write_text(str(os.getpid()))
    while not Path("go").exists():
        time.sleep(0.05)
    return net()
"""


def test_a_row_whose_process_dies_is_begun_again(nets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (row,) = sweep("nets.py:dies_once", "se", train="nets.py:counted", processes=1, **ASKED)
    here = sweep("nets.py:net", "se", train="nets.py:counted", processes=0, **ASKED)[0]
    assert (row.error, row.accuracy, row.macs) == (None, here.accuracy, here.macs)
    # What models and train functions print is not lost, and not in the way.
    assert "training" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ("raise SystemExit(3)", "ended with exit code 3, 2 times"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL (was there enough memory?), 2 times"),
        ("import os; os.write(1, b'no pickle'); os.abort()", "was ended by SIGABRT, 2 times"),
    ],
)
def test_a_process_that_dies_again_is_a_row(nets: Path, monkeypatch: pytest.MonkeyPatch, ends: str, said: str) -> None:
    monkeypatch.setattr("attn_inject.sweeping.processes._START", ends)
    table = sweep("nets.py:net", ["se", "eca", "none"], processes=2, out="t.csv", **ASKED)
    assert [row.error for row in table] == [f"the process that made it {said}"] * 3
    assert SweepTable.read("t.csv") == table


def test_a_sweep_that_is_killed_goes_on_and_leaves_no_process(nets: Path) -> None:
    with (nets / "nets.py").open("a") as file:
        file.write(WAITS)
    # From standard input, as a notebook's cell: there is no main module that a process could import.
    running = subprocess.Popen([sys.executable, "-"], stdin=subprocess.PIPE, text=True)
    assert running.stdin is not None
    running.stdin.write(SWEEP)
    running.stdin.close()
    _until(lambda: Path("pid").exists() and Path("pid").read_text() != "", running)
    running.send_signal(signal.SIGKILL)
    running.wait()
    worker = int(Path("pid").read_text())
    assert worker != running.pid
    _until(lambda: not _is_alive(worker))
    noted = [json.loads(line) for line in Path("table.csv.journal").read_text().splitlines()]
    assert [entry["row"]["attention"] for entry in noted[1:]] == ["se", "eca"]
    assert not Path("table.csv").exists()
    Path("go").touch()
    table = sweep(["nets.py:net", "nets.py:waits"], ["se", "eca"], out="table.csv", processes=0, **ASKED)
    assert [(row.model, row.attention, row.error) for row in SweepTable.read("table.csv")] == [
        ("nets.py:net", "se", None),
        ("nets.py:net", "eca", None),
        ("nets.py:waits", "se", None),
        ("nets.py:waits", "eca", None),
    ]
    assert [row.seconds for row in table[:2]] == [entry["row"]["seconds"] for entry in noted[1:]]
    assert len(Path("table.csv.journal").read_text().splitlines()) == 5


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def _until(happened: object, running: subprocess.Popen | None = None) -> None:
    """Wait for something that must happen; a process that should make it happen must be there."""
    end = time.monotonic() + 120
    while not happened():
        assert running is None or running.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
