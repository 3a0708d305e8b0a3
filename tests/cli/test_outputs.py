from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from attn_inject.cli.outputs import MODEL_ENDINGS, STDOUT, check_apart, check_output, write_text
from attn_inject.errors import CheckpointError
from attn_inject.saving.formats import SUFFIXES


def test_a_path_that_can_be_written(tmp_path: Path) -> None:
    assert check_output(str(tmp_path / "m.pt"), "--out", force=False, endings=MODEL_ENDINGS) == tmp_path / "m.pt"
    assert check_output(None, "--out", force=False) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m.txt", "the ending must be one of .pt, .safetensors, .pt2, .onnx"),
        ("m", "the ending must be"),
        ("there.pt", "the file exists already: give --force"),
        ("absent/m.pt", "there is no folder"),
        ("folder.pt", "this is a folder"),
        ("there.pt/m.pt", "there is no folder"),
        ("nul\0.pt", "no file can have this name"),
        ("n" * 5000 + ".pt", "too long"),
    ],
)
def test_a_path_that_cannot_be_written_is_told_before_any_work(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "there.pt").write_text("")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(CheckpointError, match=message):
        check_output(str(tmp_path / name), "--out", force=False, endings=MODEL_ENDINGS)


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    first = tmp_path / "r.json"
    check_apart(first, None, tmp_path / "r.html", STDOUT, None, STDOUT)
    with pytest.raises(CheckpointError, match="is asked for twice: give each output a file of its own"):
        check_apart(first, None, tmp_path / "folder" / ".." / "r.json")


def test_force_replaces(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_text("")
    assert check_output(str(tmp_path / "m.pt"), "--out", force=True) == tmp_path / "m.pt"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(CheckpointError, match="cannot be written"):
        check_output(str(tmp_path / "locked" / "m.pt"), "--out", force=False)


def test_a_text_is_whole_or_not_there(tmp_path: Path) -> None:
    write_text(tmp_path / "r.md", "×")
    assert (tmp_path / "r.md").read_text(encoding="utf-8") == "×"
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "r.md", "\ud800")
    assert [(p.name, p.read_text(encoding="utf-8")) for p in tmp_path.iterdir()] == [("r.md", "×")]


def test_the_endings_are_those_that_can_be_saved() -> None:
    assert MODEL_ENDINGS == SUFFIXES


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("--out m.onnx", "--out m.onnx: the ending must be one of .pt, .safetensors"),
        ("", "Invalid value for --attention-only: it is about the file that --out writes, which is not there"),
    ],
)
def test_attention_only_is_of_files_that_load(cli: Callable, toy: str, asked: str, message: str) -> None:
    ran = cli(toy, "-a", "se", "--attention-only", *asked.split())
    assert ran == (2, "", f"attn-inject: {message}\n")
