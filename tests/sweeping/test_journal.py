from __future__ import annotations

import json
from pathlib import Path

import pytest

from attn_inject import AttnInjectError, CheckpointError
from attn_inject.sweeping.journal import Journal, journal_path
from attn_inject.sweeping.rows import Row

MEASURES = {"latency": False, "seeds": (0, 1)}
ROW = Row(model="m", attention="se", placement="standard", sites=3, traffic_ratio=1.25, accuracies=(0.1, 0.2))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = journal_path(tmp_path / "table.csv")
    assert made.name == "table.csv.journal"
    with Journal(made, MEASURES) as journal:
        journal.add("a", ROW)
        journal.add("b", ROW)
    return made


def test_what_was_noted_is_there_again(path: Path) -> None:
    with Journal(path, MEASURES) as journal:
        assert journal.rows == {"a": ROW, "b": ROW}


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_torn_last_line_is_dropped_and_the_file_goes_on(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path, MEASURES) as journal:
        assert journal.rows == {"a": ROW}
        journal.add("c", ROW)
    with Journal(path, MEASURES) as journal:
        assert list(journal.rows) == ["a", "c"]


def test_a_torn_first_line_is_a_new_journal(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])
    with Journal(path, MEASURES) as journal:
        assert journal.rows == {}
    assert json.loads(path.read_text())["measures"] == {"latency": False, "seeds": [0, 1]}


def test_the_last_word_on_a_row_counts(path: Path) -> None:
    later = Row(model="m", attention="se", placement="standard", error="no")
    with Journal(path, MEASURES) as journal:
        journal.add("a", later)
    with Journal(path, MEASURES) as journal:
        assert journal.rows == {"a": later, "b": ROW}


def test_another_sweep_does_not_go_on_with_it(path: Path) -> None:
    held = path.read_bytes()
    with pytest.raises(AttnInjectError, match=r"latency was False and is True now\): give another file"):
        Journal(path, {**MEASURES, "latency": True})
    with pytest.raises(AttnInjectError, match=r"journal of another sweep \(latency was False and is None now"):
        Journal(path, {"seeds": (0, 1)})
    assert path.read_bytes() == held


def test_two_sweeps_at_once_are_refused(path: Path) -> None:
    pytest.importorskip("fcntl")
    with Journal(path, MEASURES), pytest.raises(AttnInjectError, match="another sweep is writing"):
        Journal(path, MEASURES)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("model,attention\n", "line 1 of .* is not one"),
        ("[]\n", "line 1 of"),
        ('{"format": "other"}\n', "line 1 of"),
        ('{"format": "attn-inject sweep journal", "version": 99}\n', "another version"),
        ("HEAD{}\n", "line 2 of"),
        ('HEAD{"key": "a", "row": {"model": "m"}}\n', "line 2 of"),
        ('HEAD{"key": "a", "row": {"model": "m", "attention": "a", "placement": "", "sites": 1.5}}\n', "line 2 of"),
        ("HEAD\n{}\n", "line 2 of"),
    ],
)
def test_what_is_no_journal_is_left_as_it_is(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "j"
    with Journal(path, MEASURES):
        pass
    path.write_text(content.replace("HEAD", path.read_text()))
    held = path.read_bytes()
    with pytest.raises(CheckpointError, match=said):
        Journal(path, MEASURES)
    assert path.read_bytes() == held


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot write"):
        Journal(tmp_path / "missing" / "j", MEASURES)
