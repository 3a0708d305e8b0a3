"""The files that a command is asked to write: refused before any work, whole or not there after it."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from attn_inject.errors import ONNX_NEEDS, CheckpointError
from attn_inject.files import atomic
from attn_inject.files.atomic import behind_links

LOADED_ENDINGS = (".pt", ".safetensors")
MODEL_ENDINGS = (*LOADED_ENDINGS, ".pt2", ".onnx")
PLOT_ENDINGS = (".png", ".svg", ".pdf")


STDOUT = Path("-")
"""The path that means standard output."""


def check_output(
    text: str | None, option: str, *, force: bool, endings: tuple[str, ...] = (), stdout: bool = False
) -> Path | None:
    """The path to write; with `stdout`, a single dash is `STDOUT`.

    Raises CheckpointError for an unknown ending, a folder that is not there, a file that is in the way, a dash where
    there is no standard output to write.
    """
    if text is None:
        return None
    path = Path(text)
    if path == STDOUT and text == "-":
        if stdout:
            return STDOUT
        raise CheckpointError(f"{option} -: only JSON goes to standard output; give a file")
    if endings and path.suffix.lower() not in endings:
        raise CheckpointError(f"{option} {text}: the ending must be one of {', '.join(endings)}")
    try:
        reason = _obstacle(path, force=force)
    except (OSError, ValueError) as error:
        reason = str(error)
    if not reason and path.suffix.lower() == ".onnx" and not all(map(find_spec, ("onnx", "onnxscript"))):
        reason = ONNX_NEEDS
    if reason:
        raise CheckpointError(f"{option} {text[:200]}: {reason}")
    return path


def check_apart(*paths: Path | None) -> None:
    """Refuse two outputs in one file, of which the second would replace the first.

    Raises CheckpointError, naming the file.
    """
    taken: set[Path] = set()
    for path in paths:
        if path is None or path == STDOUT:
            continue
        if path.resolve() in taken:
            raise CheckpointError(f"{path} is asked for twice: give each output a file of its own")
        taken.add(path.resolve())


def _obstacle(path: Path, *, force: bool) -> str:
    """Why the path cannot be written; empty if it can."""
    path = behind_links(path)
    if path.is_dir():
        return "this is a folder"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    if path.exists() and not force:
        return "the file exists already: give --force to replace it"
    if not os.access(path.parent, os.W_OK):
        return f"the folder {path.parent} cannot be written"
    return "no file can have this name" if "\0" in path.name else ""


def say(line: str, *, aside: bool) -> None:
    """Print a line for people: on standard output, or aside, on stderr, where that is for a program."""
    print(line, file=sys.stderr if aside else sys.stdout, flush=True)


def say_written(path: Path, *, aside: bool) -> None:
    """Say that a file is there; nothing of what went to standard output."""
    if path != STDOUT:
        say(f"wrote {path}", aside=aside)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; to `STDOUT` as it is."""
    if path == STDOUT:
        print(text, flush=True)
        return
    atomic.write_text(path, text)
