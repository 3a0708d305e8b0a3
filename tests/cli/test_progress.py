from __future__ import annotations

import sys

import pytest

from attn_inject.cli.progress import working


def test_nobody_watches_nobody_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with working("measuring") as tell:
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
