"""Somebody's own code: found in the working folder, run once as long as it stays the same."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from attn_inject.errors import AttentionError
from attn_inject.files.imported import own_code, raised

CODE = "import beside_own\n\nclass Made:\n    value = beside_own.VALUE\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_made.py").write_text(CODE)
    (tmp_path / "beside_own.py").write_text("VALUE = 7\n")
    yield tmp_path
    for name in ("own_made", "beside_own"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["own_made:Made", "own_made.py:Made", "./own_made.py:Made"])
def test_a_module_and_a_file_of_the_working_folder(folder: Path, name: str) -> None:
    path = list(sys.path)
    made = own_code(name, AttentionError)
    assert made.value == 7
    assert own_code(f"{name}.value", AttentionError) == 7
    assert sys.path == path
    # The same class for all who name it, which pickle finds again.
    assert own_code(name, AttentionError) is made
    assert pickle.loads(pickle.dumps(made)) is made


def test_a_file_that_was_changed_is_run_again(folder: Path) -> None:
    first = own_code("own_made.py:Made", AttentionError)
    (folder / "own_made.py").write_text(CODE.replace("beside_own.VALUE", "8"))
    second = own_code("own_made.py:Made", AttentionError)
    assert (first.value, second.value) == (7, 8)
    assert pickle.loads(pickle.dumps(second)) is second


def test_a_file_takes_no_other_modules_name(folder: Path) -> None:
    (folder / "json.py").write_text("mine = 1\n")
    assert own_code("json.py:mine", AttentionError) == 1
    assert not hasattr(sys.modules["json"], "mine")


def test_a_file_that_fails_leaves_nothing_behind(folder: Path) -> None:
    (folder / "own_failing.py").write_text("x = 1\nraise KeyError('depth')\n")
    with pytest.raises(KeyError) as caught:
        own_code("own_failing.py:x", AttentionError)
    assert raised(caught.value) == "KeyError: 'depth' (own_failing.py, line 2)"
    assert "own_failing" not in sys.modules


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_gone.py:x", "there is no file own_gone.py"),
        ("own_gone:x", "there is no module own_gone to import here"),
        ("own_made:Made.nothing", "there is no 'nothing' in own_made"),
    ],
)
def test_what_is_not_there(folder: Path, name: str, words: str) -> None:
    with pytest.raises(AttentionError, match=words):
        own_code(name, AttentionError)


def test_a_module_that_lacks_another_says_which(folder: Path) -> None:
    (folder / "own_lacking.py").write_text("import nobody_has_this\n")
    with pytest.raises(ModuleNotFoundError, match="nobody_has_this"):
        own_code("own_lacking:x", AttentionError)


@pytest.mark.parametrize("name", ["own_made.py", "own_made", ":Made", ".own_made:Made", "own made:Made", ""])
def test_what_names_no_code_is_one_sentence(folder: Path, name: str) -> None:
    with pytest.raises(AttentionError, match=r"names no code: write package\.module:name or file\.py:name$"):
        own_code(name, AttentionError)
