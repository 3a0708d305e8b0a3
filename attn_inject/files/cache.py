"""Answers that are slow to make and change only with what is installed, kept as JSON in the user's cache folder.

Listing a model zoo means importing it, which takes seconds; the list itself is a few kilobytes. A cache is a
convenience, never a dependency: a file that is missing, unreadable, corrupt or of other versions is made anew, and a
folder that cannot be written costs time, not an error.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from ..errors import CheckpointError
from .atomic import write_text

T = TypeVar("T")


def cached(name: str, packages: tuple[str, ...], make: Callable[[], T], *, content: str = "") -> T:
    """The value of `make()`, from the file `name`.json if that was made with the same versions of `packages`.

    The value must survive JSON unchanged (string keys, lists rather than tuples). attn-inject's own version always
    counts, so that a release may change what it keeps, and so does `content`: a digest of what else the value hangs on.
    """
    versions = {package: version(package) for package in ("attn-inject", *packages)}
    if content:
        versions["content"] = content
    path = folder() / f"{name}.json"
    kept = _read(path)
    if isinstance(kept, dict) and kept.get("versions") == versions and "value" in kept:
        value: T = kept["value"]
        return value
    value = make()
    _write(path, {"versions": versions, "value": value})
    return value


def folder() -> Path:
    """Where the files lie: `ATTN_INJECT_CACHE` if it is set, else the platform's cache folder for this user."""
    given = os.environ.get("ATTN_INJECT_CACHE")
    if given:
        return Path(given)
    from platformdirs import user_cache_path

    return user_cache_path("attn-inject", appauthor=False)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content)
    with contextlib.suppress(OSError, CheckpointError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
