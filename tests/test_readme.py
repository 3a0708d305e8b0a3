"""What README shows works when pasted: its commands (but those that install), its Python, its links."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from attn_inject.cli.main import run

from .attention.table import written

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


SHELL = [block for block in blocks("sh") if "pip install" not in block]


@pytest.mark.slow
@pytest.mark.parametrize("block", SHELL, ids=[block.split("\n")[0] for block in SHELL])
def test_the_commands(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in block.splitlines():
        program, *arguments = shlex.split(line)
        if arguments[:2] == ["-m", "attn_inject.recipes.finetune"]:
            assert program == "python"
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            continue
        assert program == "attn-inject"
        assert run(arguments) == 0, line


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.split("\n")[0])
def test_the_python(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_the_first_screen_has_the_two_commands_that_install() -> None:
    first = README.split("## ")[0]
    installing = [block for block in blocks("sh") if "pip install" in block]
    assert len(installing) == 2
    assert all(block in first for block in installing)
    assert "attn-inject resnet50 --attention eca --out model.pt" in installing[0]
    assert "pytest" in installing[1]


@pytest.mark.parametrize(("name", "word"), [("job", "--out model.pt"), ("tests", "pytest")])
def test_the_continuous_integration_runs_these_very_commands(name: str, word: str) -> None:
    script = f"source <(sed -n '/^readme()/,/^}}/p' .ci/run); readme {name}"
    found = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found in blocks("sh")
    assert word in found


def test_the_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.slow
def test_the_table_of_attentions_is_the_one_that_its_command_makes() -> None:
    """With the libraries of today: what a torch copies on the way, and so the traffic, differs between releases."""
    assert written(README) == README
