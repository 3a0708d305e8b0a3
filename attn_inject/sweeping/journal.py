"""What a sweep has done so far, beside its table: one line of JSON for each row, on the disk before the next begins.

The first line says what the sweep measures; a sweep that measures something else must not go on with it. A process that
is killed while it writes leaves a torn last line, which is dropped, and its row is made again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import AttnInjectError, CheckpointError
from .rows import Row

_FORMAT, _VERSION = "attn-inject sweep journal", 1


def journal_path(table: Path) -> Path:
    """The journal of a table: `table.csv.journal`."""
    return table.with_name(table.name + ".journal")


class Journal:
    """The rows that are done, by key; a context that holds the file for this process alone.

    Raises:
        CheckpointError: a file that cannot be written or is no journal.
        AttnInjectError: the journal of a sweep that measured something else, or one that is running now.

    """

    def __init__(self, path: Path, measures: Mapping[str, Any]) -> None:
        self.rows: dict[str, Row] = {}
        self._path = path
        try:
            self._file: BinaryIO = path.open("a+b")
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {error.strerror}") from error
        try:
            self._hold()
            self._begin(dict(json.loads(json.dumps(measures))))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, key: str, row: Row) -> None:
        """Note that a row is done; it is on the disk when this returns."""
        self.rows[key] = row
        self._write({"key": key, "row": row.to_dict()})

    def _begin(self, measures: dict[str, Any]) -> None:
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        if not whole:
            self._file.truncate(0)
            self._write({"format": _FORMAT, "version": _VERSION, "measures": measures})
            return
        self._file.truncate(sum(map(len, whole)))
        self._must_be_of(self._parsed(whole[0], 1), measures)
        for number, line in enumerate(whole[1:], start=2):
            try:
                entry = self._parsed(line, number)
                self.rows[str(entry["key"])] = Row.of(entry["row"])
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise self._unsound(number) from error

    def _must_be_of(self, head: dict[str, Any], measures: dict[str, Any]) -> None:
        if head.get("format") != _FORMAT:
            raise self._unsound(1)
        if head.get("version") != _VERSION:
            raise CheckpointError(f"{self._path} was written by another version of attn-inject; delete it, or move it")
        was = head.get("measures")
        if was == measures:
            return
        before = was if isinstance(was, dict) else {}
        names = [name for name in measures if before.get(name) != measures[name]] or sorted(before)
        told = ", ".join(f"{name} was {before.get(name)} and is {measures.get(name)} now" for name in names)
        raise AttnInjectError(
            f"{self._path} is the journal of another sweep ({told}): give another file for the table, or delete the "
            "journal to start anew"
        )

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            found = json.loads(line)
        except ValueError as error:
            raise self._unsound(number) from error
        if not isinstance(found, dict):
            raise self._unsound(number)
        return found

    def _unsound(self, number: int) -> CheckpointError:
        return CheckpointError(f"line {number} of {self._path} is not one of a sweep's journal: delete it, or move it")

    def _write(self, entry: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(entry).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise CheckpointError(f"cannot write {self._path}: {error.strerror}") from error

    def _hold(self) -> None:
        """Keep other sweeps out, where the platform can; the lock goes with the process, however that ends."""
        try:
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AttnInjectError(f"another sweep is writing {self._path} now: wait, or give another file") from error
