"""What is asked of Ray, held by a stand-in that runs tasks at once; tests/wild/test_ray.py has a cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attn_inject import AttnInjectError, sweep
from attn_inject.sweeping.work import make_row_at_home

ASKED: dict[str, Any] = {"options": {"input_size": 16}, "latency": False, "address": "here:1"}


class RayError(Exception):
    """As `ray.exceptions` has it."""


class FakeRay:
    """The part of Ray's interface that a sweep uses; tasks run when their result is asked for, the last one first."""

    class exceptions:  # noqa: N801
        RayError = RayError

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.running = False

    def is_initialized(self) -> bool:
        return self.running

    def init(self, *, address: str, **_: Any) -> None:
        if address != "here:1":
            raise ConnectionError(f"Could not find any running Ray instance.\nAt {address}")
        self.told.append("init")

    def shutdown(self) -> None:
        self.told.append("shutdown")

    def put(self, value: Any) -> Any:
        return value

    def remote(self, function: Callable[..., Any]) -> FakeRay:
        assert function is make_row_at_home
        return self

    def options(self, **asked: Any) -> Any:
        self.told.append(asked)

        class Task:
            @staticmethod
            def remote(wish: Any, work: Any) -> _Reference:
                return _Reference((wish, work))

        return Task

    def wait(self, references: list[Any], *, num_returns: int) -> tuple[list[Any], list[Any]]:
        return references[-num_returns:], references[:-num_returns]

    def get(self, reference: Any) -> Any:
        wish, work = reference.given
        if wish.label == "eca":
            raise RayError("The worker died unexpectedly.\nIts log is elsewhere.")
        return make_row_at_home(wish, work)

    def cancel(self, reference: Any, *, force: bool) -> None:
        self.told.append(("cancel", reference.given[0].label, force))


class _Reference:
    def __init__(self, given: Any) -> None:
        self.given = given


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    made = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", made)
    return made


def test_every_row_is_a_task_and_what_ray_gives_up_is_a_row(nets: Path, ray: FakeRay) -> None:
    table = sweep("nets.py:net", ["se", "eca", "simam"], **ASKED)
    assert ray.told == ["init", {"num_cpus": 1, "num_gpus": 0}, "shutdown"]
    assert table[1].error == "RayError: The worker died unexpectedly."
    here = sweep("nets.py:net", ["se", "simam"], **{**ASKED, "address": None, "processes": 0})
    assert [replace(row, seconds=0) for row in (table[0], table[2])] == [replace(row, seconds=0) for row in here]


def test_a_cluster_of_the_callers_stays_up_and_gets_gpus(nets: Path, ray: FakeRay) -> None:
    ray.running = True
    sweep("nets.py:net", "se", device="cuda", **ASKED)
    assert ray.told == [{"num_cpus": 1, "num_gpus": 1}]


def test_a_sweep_that_is_stopped_takes_its_tasks_back(nets: Path, ray: FakeRay) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep("nets.py:net", ["se", "eca", "simam"], progress=stop, out="t.csv", **ASKED)
    assert ray.told[2:] == [("cancel", "se", True), ("cancel", "eca", True), "shutdown"]
    assert len(Path("t.csv.journal").read_text().splitlines()) == 2


def test_no_cluster_is_one_sentence(nets: Path, ray: FakeRay) -> None:
    with pytest.raises(AttnInjectError, match=r"no Ray cluster answers at there: Could not find any running Ray .*\.$"):
        sweep("nets.py:net", "se", **{**ASKED, "address": "there"})


def test_no_ray_names_the_extra(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(AttnInjectError, match=r"pip install 'attn-inject\[ray\]'"):
        sweep("nets.py:net", "se", **ASKED)
