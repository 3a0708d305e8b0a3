"""A `Plan` as text, and back: JSON in saved files, TOML for people. Reading is strict.

Every key must be known and every required key there; numbers are finite and of a sensible size; paths are dotted names.
A plan comes from a file that anybody may have written, so nothing in it is believed: whatever is wrong ends in a
`PlanError` of one sentence, and nothing is imported, evaluated or opened.

Format version 1. A reader of version n reads all versions up to n, for as long as the major version of the package is
the same; a newer version is refused with a sentence that says so.
"""

from __future__ import annotations

import difflib
import json
import keyword
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from ..errors import PlanError
from ..types import INITS, KINDS, PLACEMENTS, Insertion, Plan, Site, Source

FORMAT = 1
MAX_TEXT = 16_000_000
_MAX_ITEMS = 20_000
_MAX_NUMBER = 2**40
_MAX_STRING = 2_000
_PATH = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_LAYOUTS = ("channels_first", "channels_last")
SOURCE_KINDS = ("timm", "torchvision", "cifar", "module", "file", "object")

Reader = Callable[[str, Any], Any]


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """The plan as plain dicts, lists, strings and numbers; what is None or empty by default is left out."""
    result: dict[str, Any] = {"format": FORMAT}
    for item in fields(plan):
        value = getattr(plan, item.name)
        if item.name == "factory" or value is None or (value == () and item.default == ()):
            continue
        if item.name == "insertions":
            value = [_insertion_to_dict(insertion) for insertion in value]
        elif item.name == "removals":
            value = [_record(site) for site in value]
        elif item.name == "source":
            value = _record(value)
        elif isinstance(value, tuple):
            value = list(value)
        result[item.name] = value
    result.setdefault("insertions", [])
    return result


def _insertion_to_dict(insertion: Insertion) -> dict[str, Any]:
    record = _record(insertion)
    record["site"] = _record(insertion.site)
    return record


def _record(value: Any) -> dict[str, Any]:
    record = {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    return {name: item for name, item in record.items() if item is not None and item != {}}


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (str, int, float, bool, Site)):
        return value
    raise PlanError(f"the option value {value!r} cannot be written down: use numbers, words, lists or tables")


def plan_from_dict(data: Any) -> Plan:
    """The plan that `plan_to_dict` gave.

    Raises:
        PlanError: anything else; names the key.

    """
    table = _table("the plan", data)
    version = table.get("format")
    if isinstance(version, bool) or not isinstance(version, int):
        raise PlanError("the plan has no format number: it was not written by attn-inject")
    if version > FORMAT or version < 1:
        raise PlanError(
            f"the plan is of format {shown(version)}, and this version reads up to {FORMAT}: update attn-inject"
        )
    values = _read("the plan", {k: v for k, v in table.items() if k != "format"}, _PLAN, ("insertions", "attention"))
    plan = Plan(**values)
    modules = [insertion.module for insertion in plan.insertions]
    if len(set(modules)) < len(modules):
        twice = Counter(modules).most_common(1)[0][0]
        raise PlanError(f"the plan names the module {twice[:60]} twice")
    return plan


def plan_to_json(plan: Plan) -> str:
    """The plan as JSON."""
    return json.dumps(plan_to_dict(plan), allow_nan=False, indent=None, separators=(",", ":"))


def plan_from_json(text: str | bytes) -> Plan:
    """The plan in a JSON text.

    Raises:
        PlanError: the text is too long, no JSON, or no plan.

    """
    return plan_from_dict(_parsed(text, "JSON", lambda words: json.loads(words, parse_constant=_no_constant)))


def plan_to_toml(plan: Plan) -> str:
    """The plan as TOML.

    Raises:
        PlanError: an option is None, which TOML has no word for; JSON has.

    """
    return "\n".join(_toml(plan_to_dict(plan), "")).strip() + "\n"


def plan_from_toml(text: str | bytes) -> Plan:
    """The plan in a TOML text.

    Raises:
        PlanError: the text is too long, no TOML, or no plan.

    """
    return plan_from_dict(_parsed(text, "TOML", tomllib.loads))


def _parsed(text: str | bytes, language: str, parse: Callable[[str], Any]) -> Any:
    if len(text) > MAX_TEXT:
        raise PlanError(f"the plan is {len(text)} characters long, more than any plan needs")
    try:
        return parse(text.decode("utf-8") if isinstance(text, bytes) else text)
    except PlanError:
        raise
    except (ValueError, RecursionError, OverflowError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise PlanError(f"the plan is no valid {language}: {said}") from error


def _no_constant(word: str) -> Any:
    raise PlanError(f"the plan holds {word}, which is no number")


def _toml(table: Mapping[str, Any], prefix: str) -> list[str]:
    lines: list[str] = []
    later: list[str] = []
    for key, value in table.items():
        name = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(value, Mapping):
            later += ["", f"[{path}]", *_toml(value, path)]
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for item in value:
                later += ["", f"[[{path}]]", *_toml(item, path)]
        else:
            lines.append(f"{name} = {_toml_value(value)}")
    return lines + later


def _toml_value(value: Any) -> str:
    if value is None:
        raise PlanError("an option of the plan is None, which TOML has no word for: write it as JSON")
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str):
        # JSON escapes a lone surrogate and DEL in ways TOML does not take; such strings are in no plan.
        return json.dumps(value).replace("\x7f", "\\u007f")
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


def shown(value: Any) -> str:
    """`value` in few words: a whole number may have more digits than Python prints, a list more levels than it can."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "a table"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    return repr(value[:40] if isinstance(value, str) else value)


# Readers: each takes where it is (for the error) and a value, and gives the checked value.


def _table(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise PlanError(f"{where} must be a table of named values, not {type(value).__name__}")
    return value


def _read(where: str, table: Any, readers: Mapping[str, Reader], required: tuple[str, ...]) -> dict[str, Any]:
    table = _table(where, table)
    for key in table:
        if key not in readers:
            near = difflib.get_close_matches(key[:60], readers, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise PlanError(f"{where} has an unknown key {key[:60]!r}{hint}")
    missing = [key for key in required if key not in table]
    if missing:
        raise PlanError(f"{where} lacks {', '.join(missing)}")
    return {key: readers[key](f"{where}: {key}", value) for key, value in table.items()}


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_STRING or "\x00" in value:
        raise PlanError(f"{where} must be a text of at most {_MAX_STRING} characters")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise PlanError(f"{where} must be valid text") from None
    return value


def _path(where: str, value: Any) -> str:
    if _text(where, value) and not _PATH.fullmatch(value):
        raise PlanError(f"{where} must be a dotted module path such as layer1.0.se, not {value[:60]!r}")
    return str(value)


def _whole(where: str, value: Any, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MAX_NUMBER:
        raise PlanError(f"{where} must be a whole number from {least}, got {shown(value)}")
    return value


def _positive(where: str, value: Any) -> int:
    return _whole(where, value, 1)


def _flag(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise PlanError(f"{where} must be true or false, got {shown(value)}")
    return value


def _one_of(allowed: tuple[str, ...]) -> Reader:
    def read(where: str, value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise PlanError(f"{where} must be one of {', '.join(allowed)}, got {shown(value)}")
        return value

    return read


def _tuple_of(item: Reader) -> Reader:
    def read(where: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > _MAX_ITEMS:
            raise PlanError(f"{where} must be a list of at most {_MAX_ITEMS} items")
        return tuple(item(f"{where} {index}", entry) for index, entry in enumerate(value))

    return read


def _free(where: str, value: Any, depth: int = 0) -> Any:
    """An option's value: anything plain, finite and small."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        # Not isfinite first: a whole number may be too large to become a float.
        if not abs(value) <= _MAX_NUMBER:
            raise PlanError(f"{where} must be a finite number of sensible size")
        return value
    if isinstance(value, str):
        return _text(where, value)
    if isinstance(value, (list, dict)) and (depth > 4 or len(value) > 200):
        raise PlanError(f"{where} is nested or long beyond any use")
    if isinstance(value, list):
        return [_free(where, item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_text(where, key): _free(where, item, depth + 1) for key, item in value.items()}
    raise PlanError(f"{where} must be plain data, not {type(value).__name__}")


def _options(where: str, value: Any) -> dict[str, Any]:
    return {key: _free(f"{where} {key[:60]}", item) for key, item in _table(where, value).items() if _name(where, key)}


def _name(where: str, value: str) -> bool:
    if not value.isidentifier() or len(value) > 100:
        raise PlanError(f"{where} has a key that is no name: {value[:60]!r}")
    return True


_SITE: dict[str, Reader] = {
    "kind": _one_of(KINDS),
    "block": _path,
    "index": _whole,
    "channels": _positive,
    "size": _tuple_of(_positive),
    "layout": _one_of(_LAYOUTS),
    "stage": _whole,
    "node": _text,
    "join": _text,
    "calls": _positive,
    "existing": _text,
}


def _site(where: str, value: Any) -> Site:
    required = ("kind", "block", "index", "channels", "size", "layout", "stage", "node", "join")
    return Site(**_read(where, value, _SITE, required))


_INSERTION: dict[str, Reader] = {
    "site": _site,
    "module": _path,
    "attention": _text,
    "options": _options,
    "placement": _one_of(PLACEMENTS),
    "init": _one_of(INITS),
    "channels": _positive,
    "replaces": _path,
}


def _insertion(where: str, value: Any) -> Insertion:
    insertion = Insertion(**_read(where, value, _INSERTION, ("site", "module", "attention", "channels")))
    if not insertion.module:
        raise PlanError(f"{where}: module must not be empty")
    if word := next((part for part in insertion.module.split(".") if keyword.iskeyword(part)), None):
        # The graph's code calls the module by its path.
        raise PlanError(f"{where}: module must not have {word!r} in it, which is a word of Python's own")
    return insertion


_SOURCE: dict[str, Reader] = {
    "kind": _one_of(SOURCE_KINDS),
    "name": _text,
    "args": _options,
    "pretrained": _flag,
    "checkpoint": _text,
    "seed": _whole,
}


def _source(where: str, value: Any) -> Source:
    return Source(**_read(where, value, _SOURCE, ("kind", "name")))


_PLAN: dict[str, Reader] = {
    "insertions": _tuple_of(_insertion),
    "attention": _text,
    "init": _one_of(INITS),
    "removals": _tuple_of(_site),
    "source": _source,
    "scope": _path,
    "kinds": _tuple_of(_one_of(KINDS)),
    "input_shape": _tuple_of(_positive),
    "notes": _tuple_of(_text),
}
