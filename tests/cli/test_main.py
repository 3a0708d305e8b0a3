from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import attn_inject
from attn_inject.cli import main
from attn_inject.errors import PlanError

HEAVY = ("torch", "torchvision", "timm", "numpy", "matplotlib", "jinja2")


def test_help_shows_the_main_job_and_the_commands_within_80_columns(cli: Callable) -> None:
    shown = cli("--help")
    assert shown.code == 0
    assert max(len(line) for line in shown.out.splitlines()) <= 80
    for word in ("MODEL", "--attention", "--out", "--placement", "sites", "compare", "--version", "--help"):
        assert word in shown.out
    assert cli().out == shown.out


COMMANDS = ("sites", "models", "attentions", "recipes", "inspect", "compare", "gates", "choose", "sweep", "inject")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_within_80_columns(cli: Callable, command: str) -> None:
    shown = cli(command, "--help")
    assert shown.code == 0
    assert max(len(line) for line in shown.out.splitlines()) <= 80


@pytest.mark.parametrize("command", [*COMMANDS, ""])
def test_help_says_what_is_a_flag_and_what_holds_without_an_option(cli: Callable, command: str) -> None:
    text = cli(*command.split(), "--help").out
    assert "<bool>" not in text
    assert "[default: " not in text
    assert re.search(r"--help +flag ", text)
    plain = " ".join(text.replace("│", " ").split())
    defaults = {"--kinds": "residual,mixed", "--placement": "standard", "--units": "decimal", "--bench-seconds": "3",
                "--device": "auto", "--existing": "stack", "--form": "graph", "--every": "1"}  # fmt: skip
    for option, default in defaults.items():
        about = re.search(rf"{option} (?:(?! --).)*", plain)
        assert about is None or f"(default: {default})" in about[0], option


def test_the_version(cli: Callable) -> None:
    assert cli("--version").out == f"attn-inject {attn_inject.__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["--help", "--version", "models resnet50", "attentions", "recipes"])
def test_quick_commands_import_nothing_heavy_once_the_cache_is_warm(cli: Callable, arguments: str) -> None:
    assert cli(*arguments.split()).code == 0
    code = (
        "import sys; from attn_inject.cli.main import run; code = run(sys.argv[1:]);"
        f"sys.exit(str([m for m in {HEAVY} if m in sys.modules]) if code == 0 else 'failed')"
    )
    ran = subprocess.run([sys.executable, "-c", code, *arguments.split()], capture_output=True, text=True, check=False)
    assert ran.stderr.strip() == "[]"


@pytest.mark.parametrize("arguments", ["--no-such-option", "resnet18 --no-such-option", "resnet18 more -a se", "sites"])
def test_usage_errors_are_one_line(cli: Callable, arguments: str) -> None:
    ran = cli(*arguments.split())
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("attn-inject: ")
    assert ran.err.count("\n") == 1


def failing(error: BaseException) -> Callable[..., None]:
    def app(*arguments: object, **settings: object) -> None:
        raise error

    return app


def test_a_users_error_is_one_line_whatever_its_text(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "app", failing(PlanError("one\n  two")))
    assert cli("x") == (2, "", "attn-inject: one two\n")


def test_an_internal_error_keeps_its_traceback(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "app", failing(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli("x")


def test_an_interrupt_is_told_without_a_traceback(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "app", failing(KeyboardInterrupt()))
    assert cli("x") == (130, "", "attn-inject: interrupted\n")


def test_a_command_that_is_interrupted_says_so(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main.attentions, "catalogue", failing(KeyboardInterrupt()))
    assert cli("attentions") == (130, "", "attn-inject: interrupted\n")


def test_too_little_memory_is_a_users_error(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "app", failing(MemoryError()))
    ran = cli("x")
    assert ran.code == 2
    assert "memory" in ran.err


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -c 'from attn_inject.cli.main import main; main([\"models\"])' | head -n 1"
    ran = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def _program(arguments: str, *, ending: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m attn_inject {arguments}{ending}"
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env={**os.environ, **settings}
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_takes_no_more_is_told_in_one_line() -> None:
    ran = _program("attentions", ending=" > /dev/full")
    assert (ran.returncode, ran.stderr) == (
        2,
        "attn-inject: cannot write to standard output: No space left on device\n",
    )


def test_terminals_without_our_signs_get_others_of_the_same_width(toy: str) -> None:
    asked = f"{toy} -a se --no-bench --input-size 16"
    ran, other = (_program(asked, PYTHONIOENCODING=encoding, COLUMNS="80") for encoding in ("ascii", "utf-8"))
    assert (ran.returncode, ran.stderr, other.returncode) == (0, "", 0)
    assert "3x16x16" in ran.stdout
    assert "3×16×16" in other.stdout
    assert [len(line) for line in ran.stdout.splitlines()] == [len(line) for line in other.stdout.splitlines()]


@pytest.mark.slow
def test_the_main_job_on_a_torchvision_model_imports_what_it_needs_and_no_more() -> None:
    code = (
        "import sys; from attn_inject.cli.main import run;"
        "code = run('resnet18 -a eca --no-bench --input-size 32'.split());"
        "spare = [m for m in ('timm', 'matplotlib', 'jinja2', 'setuptools', 'onnx') if m in sys.modules];"
        "print(spare, file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr.strip() == "[]"


def test_the_package_runs_as_a_module() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "attn_inject", "--version"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"attn-inject {attn_inject.__version__}\n", "")
