"""Processes of this machine: one that dies takes its own row along and nothing else. tests/zoo kills whole sweeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from attn_inject import sweep
from attn_inject.sweeping.table import SweepTable

ASKED = {"options": {"input_size": 16}, "latency": False}


@pytest.mark.slow
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
