"""A save is whole or it did not happen: killed, out of disk, or with a rival."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from attn_inject import CheckpointError, save
from attn_inject.files.atomic import write_atomically
from attn_inject.saving.inspection import inspect

from ..saving.nets import patched


def _child_that_saves_forever(model: torch.nn.Module, path: Path) -> int:
    """Fork; the parent gets the child's number, the child never returns."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            while True:
                save(model, path)
        finally:
            os._exit(1)
    return child


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_fifty_saves_killed_at_random_moments(kill: signal.Signals, tmp_path: Path) -> None:
    """A hundred for both signals. What is there afterwards is the old file or the new one, to the byte."""
    old, new = patched(seed=1), patched(seed=2)
    generator = random.Random(int(kill))
    survived = 0
    for suffix in (".pt", ".safetensors"):
        path = tmp_path / f"m{suffix}"
        save(new, path)
        new_bytes = path.read_bytes()
        save(old, path)
        old_bytes = path.read_bytes()
        assert old_bytes != new_bytes
        for _ in range(25):
            path.write_bytes(old_bytes)
            child = _child_that_saves_forever(new, path)
            time.sleep(generator.uniform(0, 0.04))
            os.kill(child, kill)
            os.waitpid(child, 0)
            content = path.read_bytes()
            assert content in (old_bytes, new_bytes)
            survived += content == old_bytes
        assert inspect(path).tensors == len(new.state_dict())
    assert survived > 0
    # Temporary files of those that were struck while they wrote: the kills did not all fall between two saves.
    assert list(tmp_path.glob(".m-*"))


@pytest.mark.slow
def test_two_writers_leave_one_whole_file(tmp_path: Path) -> None:
    model = patched()
    path = tmp_path / "m.safetensors"
    save(model, path)
    writers = [_child_that_saves_forever(model, path) for _ in range(2)]
    for _ in range(60):
        assert inspect(path).tensors == len(model.state_dict())
    for writer in writers:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert inspect(path).tensors == len(model.state_dict())


def test_disk_full_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    model = patched()
    for suffix in (".pt", ".safetensors"):
        path = tmp_path / f"m{suffix}"
        path.write_bytes(b"old")
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            try:
                save(model, path)
            except CheckpointError as error:
                os._exit(0 if "cannot write" in str(error) and "\n" not in str(error) else 3)
            except BaseException:
                os._exit(4)
            os._exit(5)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert path.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.pt", "m.safetensors"]


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    model = patched()
    with pytest.raises(CheckpointError, match="does not exist"):
        save(model, tmp_path / "no" / "m.pt")
    (tmp_path / "m.pt").mkdir()
    with pytest.raises(CheckpointError, match="it is a folder"):
        save(model, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="cannot write /proc/m.pt"):
        save(model, "/proc/m.pt")
    (tmp_path / "there.pt").touch()
    with pytest.raises(CheckpointError, match="exists"):
        save(model, tmp_path / "there.pt", force=False)


def test_a_link_is_written_through(tmp_path: Path) -> None:
    """Where a link leads, there or not, is where the file goes; the link stays."""
    far = tmp_path / "far"
    far.mkdir()
    for name in ("old.txt", "new.txt"):
        (tmp_path / name).symlink_to(far / name)
    (far / "old.txt").write_text("before")
    for name in ("old.txt", "new.txt"):
        write_atomically(tmp_path / name, lambda path: path.write_text("after") and None)
        assert (tmp_path / name).is_symlink()
        assert (far / name).read_text() == "after"
    assert sorted(path.name for path in far.iterdir()) == ["new.txt", "old.txt"]


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "away").symlink_to(tmp_path / "none" / "file")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for name in ("away", "round"):
        with pytest.raises(CheckpointError, match="cannot write"):
            write_atomically(tmp_path / name, lambda path: path.write_text("after") and None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["away", "round"]


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    def broken(path: Path) -> None:
        path.write_text("half")
        raise ValueError

    with pytest.raises(ValueError):
        write_atomically(tmp_path / "x.pt", broken)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_forced_to_the_disk_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some systems cannot open a folder, some cannot sync one; the file's content is on the disk all the same."""
    for name, real in (("open", os.open), ("fsync", os.fsync)):

        def failing(what: Any, *args: Any, real: Any = real) -> Any:
            path = Path(f"/proc/self/fd/{what}").readlink() if isinstance(what, int) else what
            if Path(path).is_dir():
                raise OSError(22, "Invalid argument")
            return real(what, *args)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing)
            write_atomically(tmp_path / name, lambda path: path.write_text("whole") and None)
        assert (tmp_path / name).read_text() == "whole"


@pytest.mark.parametrize("name", ["open", "fsync"])
def test_a_file_that_cannot_be_forced_to_the_disk_is_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(os, name)

    def failing(what: Any, *args: Any) -> Any:
        # mkstemp opens the temporary file for writing; forcing it to the disk opens it for reading.
        if name == "fsync" or (args and args[0] == os.O_RDONLY and not Path(what).is_dir()):
            raise OSError(5, "Input/output error")
        return real(what, *args)

    monkeypatch.setattr(os, name, failing)
    with pytest.raises(CheckpointError, match="Input/output error"):
        write_atomically(tmp_path / "m.pt", lambda path: path.write_text("whole") and None)
    assert list(tmp_path.iterdir()) == []
