"""Strict reading of tables that anybody may have written: plans, recipes, and the records of saved files.

Each of them states its keys as a table of readers. A reader takes where a value stands, for the error, and the value,
and gives the checked value back. Nothing that is read is believed: numbers are finite and of a sensible size, texts
are valid and short, nesting has an end, and nothing is imported, evaluated or opened. Whatever is wrong ends in a
`PlanError` of one sentence that names the key.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import PlanError, nearest

MAX_TEXT = 16_000_000
MAX_ITEMS = 20_000
MAX_NUMBER = 2**40
MAX_STRING = 2_000
_MAX_NAME = 100
# Of one option's value: levels of lists and tables, and items in each.
_MAX_LEVELS = 5
_MAX_NESTED = 200
# What modules may be called (torchvision's RegNets have `block1-0`), but for what a file system would make of it.
_PATH = re.compile(r"[^./\\]+(\.[^./\\]+)*")

Reader = Callable[[str, Any], Any]


def from_json(where: str, content: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
        PlanError: the text is too long, or no JSON.

    """
    return _parsed(where, content, "JSON", lambda words: json.loads(words, parse_constant=_no_constant))


def from_toml(where: str, content: str | bytes) -> dict[str, Any]:
    """What a TOML text holds.

    Raises:
        PlanError: the text is too long, or no TOML.

    """
    table: dict[str, Any] = _parsed(where, content, "TOML", tomllib.loads)
    return table


def _parsed(where: str, content: str | bytes, language: str, parse: Callable[[str], Any]) -> Any:
    if len(content) > MAX_TEXT:
        raise PlanError(f"{where} is {len(content):,} characters long, more than any needs")
    try:
        return parse(content.decode("utf-8") if isinstance(content, bytes) else content)
    except (ValueError, RecursionError, OverflowError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise PlanError(f"{where} is no valid {language}: {said}") from error


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def read_table(where: str, value: Any, readers: Mapping[str, Reader], required: Sequence[str]) -> dict[str, Any]:
    """A table whose keys all have a reader, with each value read.

    Raises:
        PlanError: no table, an unknown key (with the nearest known one), a key of `required` that is not there, or
            whatever a reader says of its value.

    """
    table = named_values(where, value)
    for key in table:
        if key not in readers:
            raise PlanError(f"{where} has an unknown key {key[:60]!r}{nearest(key, readers)}")
    if missing := [key for key in required if key not in table]:
        raise PlanError(f"{where} lacks {', '.join(missing)}")
    return {key: readers[key](f"{where}: {key}", item) for key, item in table.items()}


def of_format(where: str, value: Any, newest: int) -> dict[str, Any]:
    """A table without its format number, which is at most `newest`. Comes first: a newer format may have other keys.

    Raises:
        PlanError: no table, no format number, or one that this release cannot read.

    """
    table = named_values(where, value)
    version = table.get("format")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise PlanError(f"{where} has no format number: it was not written by attn-inject")
    if version > newest:
        raise PlanError(
            f"{where} is of format {shown(version)}, and this version reads up to {newest}: update attn-inject"
        )
    return {key: item for key, item in table.items() if key != "format"}


def shown(value: Any) -> str:
    """`value` in few words: a whole number may have more digits than Python prints, a list more levels than it can."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "a table"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    return repr(value[:40] if isinstance(value, str) else value)


def named_values(where: str, value: Any) -> dict[str, Any]:
    """A table with any keys, its values as they are."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise PlanError(f"{where} must be a table of named values, not {type(value).__name__}")
    return value


def text_of(most: int) -> Reader:
    """A reader of texts of at most `most` characters."""

    def read(where: str, value: Any) -> str:
        if not isinstance(value, str) or len(value) > most or "\x00" in value:
            raise PlanError(f"{where} must be a text of at most {most:,} characters, none of them NUL")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise PlanError(f"{where} must be valid text, without half a surrogate pair") from None
        return value

    return read


text = text_of(MAX_STRING)


def filled_text(where: str, value: Any) -> str:
    """A text with something in it."""
    checked: str = text(where, value)
    if not checked.strip():
        raise PlanError(f"{where} must be a text that is not blank")
    return checked


def path(where: str, value: Any) -> str:
    """The dotted path of a module; empty for the model itself."""
    checked: str = text(where, value)
    if checked and not (_PATH.fullmatch(checked) and checked.isprintable()):
        raise PlanError(f"{where} must be a dotted module path such as layer1.0.se, not {checked[:60]!r}")
    return checked


def whole(where: str, value: Any, least: int = 0) -> int:
    """A whole number from `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_NUMBER:
        raise PlanError(f"{where} must be a whole number from {least}, got {shown(value)}")
    return value


def positive(where: str, value: Any) -> int:
    """A whole number from 1."""
    return whole(where, value, least=1)


def number(where: str, value: Any) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
        raise PlanError(f"{where} must be a finite number, got {shown(value)}")
    return float(value)


def flag(where: str, value: Any) -> bool:
    """A truth value."""
    if not isinstance(value, bool):
        raise PlanError(f"{where} must be true or false, got {shown(value)}")
    return value


def one_of(allowed: Sequence[str]) -> Reader:
    """A reader of the words in `allowed`."""

    def read(where: str, value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            hint = nearest(value, allowed) if isinstance(value, str) else ""
            raise PlanError(f"{where} must be one of {', '.join(allowed)}, got {shown(value)}{hint}")
        return value

    return read


def tuple_of(item: Reader, *, least: int = 0, most: int = MAX_ITEMS) -> Reader:
    """A reader of lists of `least` to `most` items."""

    def read(where: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise PlanError(f"{where} must be a list of {least} to {most:,} items")
        return tuple(item(f"{where} {index}", entry) for index, entry in enumerate(value))

    return read


def table_of(item: Reader) -> Reader:
    """A reader of tables from texts to texts: keys and values are both `item`s."""

    def read(where: str, value: Any) -> dict[str, Any]:
        table = named_values(where, value)
        return {item(where, key): item(f"{where} {key[:60]!r}", entry) for key, entry in table.items()}

    return read


def options(where: str, value: Any) -> dict[str, Any]:
    """Keyword arguments: names, each with a plain value."""
    table = named_values(where, value)
    for key in table:
        if not key.isidentifier() or len(key) > _MAX_NAME:
            raise PlanError(f"{where} has a key that is no name: {key[:60]!r}")
    return {key: plain(f"{where} {key[:60]}", item) for key, item in table.items()}


def plain(where: str, value: Any, level: int = 1) -> Any:
    """An option's value: a text, a finite number, a truth value, None, or lists and tables of such to a depth."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        # Not isfinite: a whole number may be too large to become a float. NaN is not at most anything.
        if not abs(value) <= MAX_NUMBER:
            raise PlanError(f"{where} must be a finite number of sensible size")
        return value
    if isinstance(value, str):
        return text(where, value)
    if isinstance(value, (list, dict)) and (level > _MAX_LEVELS or len(value) > _MAX_NESTED):
        raise PlanError(f"{where} is nested or long beyond any use")
    if isinstance(value, list):
        return [plain(where, item, level + 1) for item in value]
    if isinstance(value, dict):
        return {text(where, key): plain(where, item, level + 1) for key, item in value.items()}
    raise PlanError(f"{where} must be plain data, not {type(value).__name__}")
