from __future__ import annotations

import sys

import pytest

from attn_inject.cli.progress import bar, working


def test_nobody_watches_nobody_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for show in (working, bar):
        with show("measuring") as tell:
            tell("measuring", 0.5)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_what_is_done_on_stderr_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with working("measuring") as tell:
        tell("half way", 0.5)
    out, err = capsys.readouterr()
    assert out == ""
    assert "half way  50%" in err


def test_a_bar_is_on_stderr_only_and_goes_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with bar("sweeping") as tell:
        tell("3 of 4", 0.75)
    out, err = capsys.readouterr()
    assert out == ""
    assert "3 of 4" in err
    assert "75%" in err
