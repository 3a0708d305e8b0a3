"""What was folded into a model's layers, as a record keeps it.

{"folded": ["layer1.0"], "kept": [["layer2.0", "..."]], "tolerance": 0.01, "error": [0.002, 0.001, 0.003],
 "images": 600, "parameters": [1500, 1200], "measure": "outputs",
 "speed": [0.2, 0.19, 0.95, 0.93, 0.97, 0.95, 30, false]}
"""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

from ..errors import PlanError
from ..planning.tables import MAX_TEXT, Reader, flag, number, one_of, path, read_table, text_of, tuple_of, whole
from ..surgery.folding import Folding, Pace
from ..types import FOLD_MEASURES, Effect


def folding_to_plain(folding: Folding) -> dict[str, Any]:
    """The folding as JSON has it."""
    return {
        "folded": list(folding.folded),
        "kept": [list(pair) for pair in folding.kept],
        "tolerance": folding.tolerance,
        "error": list(astuple(folding.error)),
        "images": folding.images,
        "parameters": list(folding.parameters),
        "measure": folding.measure,
        "speed": None if folding.speed is None else list(astuple(folding.speed)),
    }


def checked_folding(where: str, value: Any) -> Folding:
    """The folding in a record.

    Raises:
        PlanError: it is none.

    """
    return Folding(**read_table(where, value, _FOLDING, [name for name in _FOLDING if name != "speed"]))


def _row(*readers: Reader) -> Reader:
    """A reader of lists of as many items, each with its own."""

    def read(where: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) != len(readers):
            raise PlanError(f"{where} must be a list of {len(readers)} items")
        return tuple(
            reader(f"{where} {index}", item) for index, (reader, item) in enumerate(zip(readers, value, strict=True))
        )

    return read


def _maybe(reader: Reader) -> Reader:
    return lambda where, value: None if value is None else reader(where, value)


def _error(where: str, value: Any) -> Effect:
    return Effect(*_row(number, _maybe(number), _maybe(number))(where, value))


def _speed(where: str, value: Any) -> Pace:
    return Pace(*_row(number, number, number, number, number, number, whole, flag)(where, value))


_FOLDING: dict[str, Reader] = {
    "folded": tuple_of(path),
    "kept": tuple_of(_row(path, text_of(MAX_TEXT))),
    "tolerance": number,
    "error": _error,
    "images": whole,
    "parameters": _row(whole, whole),
    "measure": one_of(FOLD_MEASURES),
    "speed": _maybe(_speed),
}
