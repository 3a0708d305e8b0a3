from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from attn_inject.cli import completion
from attn_inject.cli.main import run

PROGRAM = "from attn_inject.cli.main import main; main()"


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own: typer ends the process when it has completed or installed."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def completed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str) -> list[str]:
    monkeypatch.setenv(completion.VARIABLE, "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    with pytest.raises(SystemExit) as left:
        run([])
    assert left.value.code == 0
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("attn-inject sit", ["sites"]),
        (
            "attn-inject ",
            ["sites", "models", "attentions", "recipes", "inspect", "compare", "gates", "choose", "sweep"],
        ),
        ("attn-inject resnet50 --att", ["--attention", "--attention-only"]),
        ("attn-inject --att", ["--attention", "--attention-only"]),
        ("attn-inject --recipe senet50 --exp", ["--expect-sites"]),
        ("attn-inject --inst", ["--install-completion"]),
        ("attn-inject compare resnet50 -a se --mark", ["--markdown"]),
        ("attn-inject sites --wh", ["--why"]),
        (
            "attn-inject --version ",
            ["sites", "models", "attentions", "recipes", "inspect", "compare", "gates", "choose", "sweep"],
        ),
        ("attn-inject --no-such-option x --hel", ["--help"]),
    ],
)
def test_words_are_completed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, expected: list[str]
) -> None:
    assert completed(monkeypatch, capsys, line) == expected


def test_a_shell_that_ran_the_installed_script_completes(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "SHELL": "/bin/bash"}
    (tmp_path / ".bashrc").write_text("# mine\n")
    done = program("--install-completion", "bash", **home)
    assert (done.returncode, done.stderr) == (0, "")
    script = tmp_path / ".bash_completions" / "attn-inject.sh"
    assert str(script) in done.stdout
    assert (tmp_path / ".bashrc").read_text().split("\n")[0] == "# mine"
    assert f"source '{script}'" in (tmp_path / ".bashrc").read_text()
    command = tmp_path / "attn-inject"
    command.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c '{PROGRAM}' \"$@\"\n")
    command.chmod(0o755)
    asked = (
        f". '{script}'; COMP_WORDS=(attn-inject resnet50 --att); COMP_CWORD=2;"
        f" _attn_inject_completion '{command}'; echo \"${{COMPREPLY[@]}}\""
    )
    ran = subprocess.run(
        ["bash", "--norc", "-c", asked], env={**os.environ, **home}, capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("--attention --attention-only\n", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "file"), [("zsh", ".zfunc/_attn-inject"), ("fish", ".config/fish/completions/attn-inject.fish")]
)
def test_other_shells_get_their_files(tmp_path: Path, shell: str, file: str) -> None:
    assert program(f"--install-completion={shell}", HOME=str(tmp_path)).returncode == 0
    assert completion.VARIABLE in (tmp_path / file).read_text()
    shown = program("--show-completion", shell, HOME=str(tmp_path / "elsewhere"))
    assert shown.stdout.strip() == (tmp_path / file).read_text().strip()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("option", completion.OPTIONS)
def test_without_a_name_it_is_the_shell_that_called(
    cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    shellingham = pytest.importorskip("shellingham")
    monkeypatch.setenv("HOME", str(tmp_path))

    def nobody() -> tuple[str, str]:
        raise shellingham.ShellDetectionFailure

    monkeypatch.setattr(shellingham, "detect_shell", lambda: ("fish", "/usr/bin/fish"))
    with pytest.raises(SystemExit) as left:
        run([option])
    assert left.value.code == 0
    assert (tmp_path / ".config/fish/completions/attn-inject.fish").exists() == ("install" in option)

    for detect, said in ((nobody, "cannot tell which shell"), (lambda: ("csh", "/bin/csh"), "csh is not a shell")):
        monkeypatch.setattr(shellingham, "detect_shell", detect)
        ran = cli(option)
        assert (ran.code, ran.err.count("\n")) == (2, 1)
        assert said in ran.err
        assert "name one of bash, zsh, fish" in ran.err


@pytest.mark.parametrize("option", completion.OPTIONS)
def test_a_shell_that_is_unknown_is_told(cli: Callable, option: str) -> None:
    ran = cli(option, "csh")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "'csh' is not one of bash, zsh, fish" in ran.err


def test_a_home_that_cannot_be_written_is_told(cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    ran = cli("--install-completion", "bash")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "bash completion could not be installed" in ran.err


def test_help_names_both_options(cli: Callable) -> None:
    assert all(option in cli("--help").out for option in completion.OPTIONS)
