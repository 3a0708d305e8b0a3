from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from attn_inject.files import cache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTN_INJECT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def counting(value: object) -> tuple[list[int], Callable[[], object]]:
    calls: list[int] = []

    def make() -> object:
        calls.append(1)
        return value

    return calls, make


def test_the_second_call_reads_the_file(folder: Path) -> None:
    calls, make = counting({"a": [1, 2]})
    assert cache.cached("x", ("rich",), make) == {"a": [1, 2]}
    assert cache.cached("x", ("rich",), make) == {"a": [1, 2]}
    assert len(calls) == 1
    assert [p.name for p in folder.iterdir()] == ["x.json"]


def test_other_versions_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, make = counting(1)
    cache.cached("x", ("rich",), make)
    monkeypatch.setattr(cache, "version", lambda package: "999")
    cache.cached("x", ("rich",), make)
    assert len(calls) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"{}", b'{"versions": {}}', b"[" * 100_000])
def test_a_corrupt_file_is_made_anew(folder: Path, content: bytes) -> None:
    calls, make = counting("v")
    cache.cached("x", (), make)
    (folder / "x.json").write_bytes(content)
    assert cache.cached("x", (), make) == "v"
    assert cache.cached("x", (), make) == "v"
    assert len(calls) == 2


def test_a_folder_that_cannot_be_made_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATTN_INJECT_CACHE", str(tmp_path / "file" / "below"))
    calls, make = counting("v")
    assert cache.cached("x", (), make) == cache.cached("x", (), make) == "v"
    assert len(calls) == 2


def test_a_value_that_json_cannot_hold_leaves_no_file_behind(folder: Path) -> None:
    with pytest.raises(TypeError):
        cache.cached("x", (), object)
    assert not folder.exists()


def test_without_a_setting_the_platform_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATTN_INJECT_CACHE")
    assert "attn-inject" in cache.folder().parts
