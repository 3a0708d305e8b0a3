"""Ctrl-C: heeded at once, heeded although somebody swallowed it, and during the imports."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from attn_inject.cli import interrupts, main, start
from attn_inject.errors import PlanError

TOLD = (130, "", "attn-inject: interrupted\n")

SWALLOWING = """
import sys, time
from torch import nn

try:
    print("waiting", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("swallowed", flush=True)
time.sleep(60)

def make():
    return nn.Identity()
"""


@pytest.fixture(autouse=True)
def _switched_on() -> Iterator[None]:
    """Tests that run in a script's background have interrupts switched off, and their children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def swallowing(*_args: Any, **_options: Any) -> int:
    """Goes on after an interrupt, as a destructor or a careless import does."""
    for _ in range(2):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            continue
    return 0


def failing_of_it(*_args: Any, **_options: Any) -> int:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise PlanError("no sites, since half of the model is missing") from None
    return 0


@pytest.mark.parametrize("command", [swallowing, failing_of_it])
def test_an_interrupt_counts_whatever_became_of_it(
    command: Callable[..., int], cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "app", command)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)]
    assert cli("x") == TOLD
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)] == before


def test_an_interrupt_that_is_swallowed_comes_again(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def waiting(*_args: Any, **_options: Any) -> int:
        swallowing()
        signal.pause()
        raise AssertionError("nothing came")

    monkeypatch.setattr(interrupts, "AGAIN", 0.05)
    monkeypatch.setattr(main, "app", waiting)
    assert cli("x") == TOLD


def test_no_interrupt_is_no_interrupt() -> None:
    with interrupts.heeded() as found:
        pass
    assert not found.seen


def test_an_interrupt_that_a_shell_switched_off_stays_off() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.heeded() as found:
            signal.raise_signal(signal.SIGINT)
        assert not found.seen
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_a_users_file_that_swallows_one_is_interrupted_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(SWALLOWING)
    command = [sys.executable, "-m", "attn_inject", "model.py:make", "-a", "eca", "--out", "m.pt", "--no-bench"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out: IO[str] = process.stdout  # type: ignore[assignment]
    while out.readline() not in ("waiting\n", ""):
        pass
    process.send_signal(signal.SIGINT)
    said, error = process.communicate(timeout=50)
    assert (process.returncode, error) == (130, "attn-inject: interrupted\n")
    assert said == "swallowed\n"
    assert not list(tmp_path.glob("*.pt"))


IMPORTING = """
import signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "typer":
            exec("signal.raise_signal(signal.SIGINT)")

sys.meta_path.insert(0, Finder())
from attn_inject.cli.start import main
main()
"""


def test_an_interrupt_during_the_imports_is_one_line_and_no_death_by_signal(tmp_path: Path) -> None:
    (tmp_path / "begin.py").write_text(IMPORTING)
    command = [sys.executable, "-m", "begin"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == TOLD


def test_a_code_that_is_settled_leaves_the_program_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "main", lambda: sys.exit(3))
    with pytest.raises(SystemExit) as caught:
        start.main()
    assert caught.value.code == 3


def test_what_fails_of_an_interrupt_outside_of_a_command_is_told_as_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "main", failing_of_it)
    with pytest.raises(SystemExit) as caught:
        start.main()
    assert (caught.value.code, *capsys.readouterr()) == TOLD
