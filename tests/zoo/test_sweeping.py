"""Sweeps that are killed: nothing is lost, nothing is there twice, and no process is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from attn_inject import sweep
from attn_inject.sweeping.table import SweepTable

from ..sweeping.conftest import NETS

pytestmark = pytest.mark.zoo

# Small ones, so that this takes a minute or two.
GATED = """
cifar:preactresnet20 cifar:resnet20 resnet18 resnet34 resnet50 resnext50_32x4d wide_resnet50_2 squeezenet1_0
squeezenet1_1 mnasnet0_5 regnet_x_400mf timm:resnet18 timm:resnet34 timm:resnet50 resnet10t resnet14t resnet18d resnet26
resnet26d resnet26t resnet34d resnetblur18 skresnet18 legacy_seresnet18 test_resnet test_byobnet test_convnext
test_convnext2 test_convnext3 resnext26ts seresnext26ts eca_resnext26ts gcresnext26ts darknet17 darknet21 darknetaa53
mobilenetv3_small_050 regnetx_002 tinynet_e cspresnet50
"""
WITHOUT_SITES = """
alexnet vgg11 vgg11_bn vgg13 vgg13_bn vgg16 test_efficientnet lcnet_035 lcnet_050 mobilenetv1_100
"""
MODELS = [*GATED.split(), *WITHOUT_SITES.split()]
ATTENTIONS = ["se:reduction=4", "eca", "simam"]
LINE = ["sweep", *MODELS, *(word for name in ATTENTIONS for word in ("-a", name)), "--no-latency", "--processes", "2"]
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


def _sweep(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "attn_inject", *LINE, "--out", "table.parquet"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_nothing_is_lost_and_nothing_is_there_twice(tmp_path: Path) -> None:
    journal = tmp_path / "table.parquet.journal"
    assert len(MODELS) == len(set(MODELS)) == 50
    first = _sweep(tmp_path)
    while not journal.exists() or journal.read_bytes().count(b"\n") <= 75:
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (tmp_path / "table.parquet").exists()
    before = journal.read_bytes()
    assert 75 < before.count(b"\n") < 150
    # As a machine that lost its power would leave it.
    journal.write_bytes(before[:-7])
    assert _sweep(tmp_path).wait() == 0

    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(lines) == 151
    assert len({line["key"] for line in lines[1:]}) == 150
    assert journal.read_bytes().startswith(before[: before[:-7].rindex(b"\n") + 1])
    table = SweepTable.read(tmp_path / "table.parquet")
    assert [(row.model, row.attention) for row in table] == [(m, a) for m in MODELS for a in ATTENTIONS]
    failed = {row.model: row.error for row in table.errors}
    assert {len([row for row in table.errors if row.model == model]) for model in failed} == {3}
    assert sorted(failed) == sorted(WITHOUT_SITES.split())
    assert all("no sites" in str(error) for error in failed.values())
    assert all((row.sites or 0) > 0 and row.flops for row in table if row.error is None)


def test_a_sweep_that_is_killed_goes_on_and_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets.py").write_text(NETS + WAITS)
    monkeypatch.chdir(tmp_path)
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
    table = sweep(
        ["nets.py:net", "nets.py:waits"],
        ["se", "eca"],
        out="table.csv",
        options={"input_size": 16},
        latency=False,
        processes=0,
    )
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


def _until(happened: Callable[[], bool], running: subprocess.Popen | None = None) -> None:
    """Wait for something that must happen; a process that should make it happen must be there."""
    end = time.monotonic() + 120
    while not happened():
        assert running is None or running.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
