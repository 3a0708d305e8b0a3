"""What is finished of a long study, in a file that it can go on from: trainings and races, written as they are done.

The file is JSON, written whole every time. It is for one model, one data and one way of training, whose digest stands
in it; what may change in between is the budget, the number of seeds, and which sets are compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files.atomic import write_text
from .trained import Outcome

FORMAT, VERSION = "attn-inject choose", 1


class Finished:
    """The outcomes so far, by name; kept in a file if there is a path."""

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        """Read what is there.

        Raises:
            CheckpointError: the file is of something else, not sound, or cannot be written.

        """
        self._path, self._fingerprint = path, fingerprint
        self._values: dict[str, Any] = {}
        if path is not None and path.exists():
            self._values = _read(path, fingerprint)
        else:
            self._write()

    def outcome(self, name: str, make: Callable[[], Outcome], *, worth: bool = False) -> Outcome:
        """The outcome of that name, made if it is not there, or if its sites' worth is asked for and not there."""
        found = self._values.get(name)
        if found is None or (worth and not found["worth"]):
            made = make()
            self._keep(name, asdict(made))
            return made
        sums = tuple((int(count), total, squares) for count, total, squares in found["worth"])
        return Outcome(tuple(found["losses"]), tuple(found["right"]), sums)

    def numbers(self, name: str, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """The record of that name, of numbers and lists, made if it is not there."""
        if name not in self._values:
            self._keep(name, dict(make()))
        found: Mapping[str, Any] = self._values[name]
        return found

    def _keep(self, name: str, value: Any) -> None:
        self._values[name] = value
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        content = {"format": FORMAT, "version": VERSION, "fingerprint": self._fingerprint, "finished": self._values}
        write_text(self._path, json.dumps(content, allow_nan=False))


def _read(path: Path, fingerprint: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be gone on from: it cannot be read as JSON") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no file of finished trainings: choose another name for it")
    if content.get("version") != VERSION:
        raise CheckpointError(f"{path} is of another version of attn-inject: choose another name for it")
    if content.get("fingerprint") != fingerprint:
        raise CheckpointError(
            f"{path} is of another model, other data (does the loader shuffle?), another attention or other settings: "
            "give it what it was begun with, or choose another name"
        )
    values = content.get("finished")
    if not isinstance(values, dict) or not all(map(_is_sound, values.values())):
        raise CheckpointError(f"{path} cannot be gone on from: what was finished is not in it")
    return values


def _is_sound(value: Any) -> bool:
    """Whether it is a record of numbers, or an outcome as it was written."""
    if not isinstance(value, dict):
        return False
    if "losses" not in value:
        return all(_is_number(each) for each in value.values())
    lists = [value.get(name) for name in ("losses", "right", "worth")]
    if value.keys() != {"losses", "right", "worth"} or not all(isinstance(each, list) for each in lists):
        return False
    losses, right, worth = lists
    triples = all(isinstance(each, list) and len(each) == 3 for each in worth)  # type: ignore[union-attr]
    return triples and all(map(_is_number, [*losses, *right, *(n for each in worth for n in each)]))  # type: ignore[misc,union-attr]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))
