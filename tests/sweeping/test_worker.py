"""What a worker does with what it is sent, without a process of its own; tests/sweeping/test_processes.py has those."""

from __future__ import annotations

import io
import os
import pickle
import queue
import signal
from pathlib import Path

import pytest
import torch

from attn_inject.planning.choices import Choices
from attn_inject.reporting.settings import ReportSettings
from attn_inject.sweeping import worker
from attn_inject.sweeping.work import Wish, Work


def _wish(name: str) -> Wish:
    choices = Choices(attention="eca", input_size=16)
    return Wish(model=name, name=name, label="eca", choices=choices, asked={"input_size": 16})


def test_it_answers_in_turn_until_there_is_no_more(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(settings=ReportSettings(bench=False), train=None, seeds=(0,), pretrained=False, home=nets)
    asked, answers = io.BytesIO(), io.BytesIO()
    for item in ((_wish("nets.py:net"), work), (_wish("nets.py:broken"), work), None):
        pickle.dump(item, asked)
    asked.seek(0)
    # Names of files are those of the folder that the sweep was started in.
    monkeypatch.chdir("/")
    ignored: list[object] = []
    monkeypatch.setattr(worker, "_take_over_the_pipes", lambda: (asked, answers))
    monkeypatch.setattr(signal, "signal", lambda *given: ignored.append(given))
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    worker.serve(1)
    answers.seek(0)
    first, second = pickle.load(answers), pickle.load(answers)
    assert (first.model, first.sites, first.error) == ("nets.py:net", 2, None)
    assert "no such depth" in second.error
    assert answers.read() == b""
    assert Path.cwd() == Path("/")
    assert ignored == [(signal.SIGINT, signal.SIG_IGN)]
    assert threads == [1]
    monkeypatch.setattr(worker, "_take_over_the_pipes", lambda: (io.BytesIO(pickle.dumps(None)), answers))
    worker.serve(None)
    assert threads == [1]


def test_it_ends_when_whoever_started_it_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit, match="1"):
        worker._listen(io.BytesIO(), queue.SimpleQueue())
