"""Writing a file whole or not at all.

The content goes to a new file in the same folder, is forced to the disk, and takes the target's name in one step.
Whatever stops the process, or the disk, before that step leaves the old file as it was; two writers leave one whole
file.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..errors import CheckpointError


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file next to `path`, then rename it to `path`; a link is written through.

    Raises:
        CheckpointError: the folder or the file cannot be written, or the disk is full; nothing is left behind.

    """
    # As `open` writes: a link may be there to put the file on another disk.
    path = behind_links(Path(path))
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot write {path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise CheckpointError(f"cannot write {path}: it is a folder")
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        _settle(temporary)
        temporary.chmod(_mode(path))
        temporary.replace(path)
        _settle(path.parent)
        temporary = None
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8, line ends as they are) whole or not at all.

    Raises:
        CheckpointError: as `write_atomically`.

    """
    content = text.encode("utf-8")

    def put(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomically(Path(path), put)


def behind_links(path: Path) -> Path:
    """Where a file goes that is written under this name.

    Raises:
        CheckpointError: it is a link that leads back to itself.

    """
    if not path.is_symlink():
        return path
    try:
        led = path.resolve()
    except RuntimeError:
        led = path
    if led.is_symlink():
        raise CheckpointError(f"cannot write {path}: it is a link that leads back to itself")
    return led


def _mode(path: Path) -> int:
    """The mode of the file that is replaced; for a new one, what an ordinary `open` would give."""
    try:
        return path.stat().st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def _settle(path: Path) -> None:
    """Force a file or a folder to the disk, where the platform can."""
    flags = os.O_RDONLY
    try:
        handle = os.open(path, flags)
    except OSError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(handle)
