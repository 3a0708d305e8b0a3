"""What counts as a busy machine, and what the system says of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attn_inject.cost import contention
from attn_inject.cost.contention import Contention, Watch


@pytest.mark.parametrize(
    ("seen", "busy"),
    [
        (Contention(own=1.9, elsewhere=0.0, cores=2, threads=2), False),
        (Contention(own=1.0, elsewhere=1.0, cores=2, threads=1), False),  # a core for each
        (Contention(own=1.5, elsewhere=1.0, cores=2, threads=2), True),  # three want two cores
        (Contention(own=0.5, elsewhere=None, cores=2, threads=1), True),  # half a core, as under a quota
        (Contention(own=1.0, elsewhere=None, cores=8, threads=8), False),  # nobody says; one core at least was free
    ],
)
def test_when_a_machine_is_busy(seen: Contention, *, busy: bool) -> None:
    assert seen.is_busy is busy


def test_what_others_used_is_all_work_less_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {"perf_counter": iter([0.0, 10.0]), "process_time": iter([1.0, 11.0])}
    for name, readings in clocks.items():
        monkeypatch.setattr(contention, name, lambda readings=readings: next(readings))
    work = iter([100.0, 115.0])
    monkeypatch.setattr(contention, "_processor_seconds", lambda: next(work))
    seen = Watch().seen()
    assert (seen.own, seen.elsewhere) == (1.0, 0.5)


def test_without_such_a_table_the_load_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "_processor_seconds", lambda: None)
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 0.0, 0.0))
    assert Watch().seen().elsewhere == 1.5


def test_the_systems_table(tmp_path: Path) -> None:
    """user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice, in ticks (proc(5))."""
    table = tmp_path / "stat"
    table.write_text("cpu  100 20 30 9999 8888 5 5 40 77 66\ncpu0 1 1 1 1\n")
    assert contention._processor_seconds(table) == 200 / os.sysconf("SC_CLK_TCK")
    table.write_text("what is this\n")
    assert contention._processor_seconds(table) is None
    assert contention._processor_seconds(tmp_path / "absent") is None
