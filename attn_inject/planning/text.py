"""A `Plan` as text, and back: JSON in saved files, TOML for people. Reading is strict.

Every key must be known and every required key there (see `tables`). A plan comes from a file that anybody may have
written, so nothing in it is believed: whatever is wrong ends in a `PlanError` of one sentence.

Format version 1. A reader of version n reads all versions up to n, for as long as the major version of the package is
the same; a newer version is refused with a sentence that says so.
"""

from __future__ import annotations

import json
import keyword
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..errors import PlanError
from ..types import INITS, KINDS, PLACEMENTS, Insertion, Plan, Site, Source
from .tables import (
    MAX_TEXT,
    Reader,
    flag,
    from_json,
    from_toml,
    of_format,
    one_of,
    options,
    path,
    positive,
    read_table,
    text,
    text_of,
    tuple_of,
    whole,
)

FORMAT = 1
SOURCE_KINDS = ("timm", "torchvision", "cifar", "module", "file", "object")
_LAYOUTS = ("channels_first", "channels_last")


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """The plan as plain dicts, lists, strings and numbers; what is None or empty by default is left out.

    Raises:
        PlanError: an option's value that could not be read back.

    """
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
    record = {item.name: _plain(item.name, getattr(value, item.name)) for item in fields(value)}
    for name in _FREE & record.keys():
        # What could not be read back is not written.
        record[name] = options(f"the plan: {name}", record[name])
    return {name: item for name, item in record.items() if item is not None and item != {}}


_FREE = {"options", "args"}


def _plain(where: str, value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(where, item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(f"{where} {key}", item) for key, item in value.items()}
    if value is None or isinstance(value, (str, int, float, bool, Site)):
        return value
    few = " ".join(repr(value).split())[:60]
    raise PlanError(f"the plan: {where} holds {few}, which cannot be written down: use numbers, words, lists or tables")


def plan_from_dict(data: Any) -> Plan:
    """The plan that `plan_to_dict` gave.

    Raises:
        PlanError: anything else; names the key.

    """
    values = read_table("the plan", of_format("the plan", data, FORMAT), _PLAN, ("insertions", "attention"))
    plan = Plan(**values)
    modules = [insertion.module for insertion in plan.insertions]
    if len(set(modules)) < len(modules):
        twice = Counter(modules).most_common(1)[0][0]
        raise PlanError(f"the plan names the module {twice[:60]} twice")
    return plan


def plan_to_json(plan: Plan) -> str:
    """The plan as JSON.

    Raises:
        PlanError: an option's value that could not be read back.

    """
    return json.dumps(plan_to_dict(plan), allow_nan=False, indent=None, separators=(",", ":"))


def plan_from_json(content: str | bytes) -> Plan:
    """The plan in a JSON text.

    Raises:
        PlanError: the text is too long, no JSON, or no plan.

    """
    return plan_from_dict(from_json("the plan", content))


def plan_to_toml(plan: Plan) -> str:
    """The plan as TOML.

    Raises:
        PlanError: an option's value that could not be read back; or None, which TOML has no word for, as JSON has.

    """
    return toml_of(plan_to_dict(plan))


def toml_of(table: Mapping[str, Any]) -> str:
    """A table of texts, numbers, lists and tables as TOML.

    Raises:
        PlanError: None in it, which TOML has no word for.

    """
    return "\n".join(_toml(table, "")).strip() + "\n"


def plan_from_toml(content: str | bytes) -> Plan:
    """The plan in a TOML text.

    Raises:
        PlanError: the text is too long, no TOML, or no plan.

    """
    return plan_from_dict(from_toml("the plan", content))


def _toml(table: Mapping[str, Any], prefix: str) -> list[str]:
    lines: list[str] = []
    later: list[str] = []
    for key, value in table.items():
        name = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_text(key)
        home = f"{prefix}.{name}" if prefix else name
        if isinstance(value, Mapping):
            later += ["", f"[{home}]", *_toml(value, home)]
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for item in value:
                later += ["", f"[[{home}]]", *_toml(item, home)]
        else:
            lines.append(f"{name} = {_toml_value(value)}")
    return lines + later


def _toml_value(value: Any) -> str:
    if value is None:
        raise PlanError("an option of the plan is None, which TOML has no word for: write it as JSON")
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_text(k)} = {_toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str):
        return _toml_text(value)
    return json.dumps(value)


def _toml_text(value: str) -> str:
    # JSON has no escape for DEL, which TOML wants, and its escapes for what is beyond 16 bits are none of TOML's.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


_SITE: dict[str, Reader] = {
    "kind": one_of(KINDS),
    "block": path,
    "index": whole,
    "channels": positive,
    "size": tuple_of(positive),
    "layout": one_of(_LAYOUTS),
    "stage": whole,
    "node": text,
    "join": text,
    "calls": positive,
    # A path for each module of a long block that has attention.
    "existing": text_of(MAX_TEXT),
}


def _site(where: str, value: Any) -> Site:
    required = ("kind", "block", "index", "channels", "size", "layout", "stage", "node", "join")
    return Site(**read_table(where, value, _SITE, required))


_INSERTION: dict[str, Reader] = {
    "site": _site,
    "module": path,
    "attention": text,
    "options": options,
    "placement": one_of(PLACEMENTS),
    "init": one_of(INITS),
    "channels": positive,
    "replaces": path,
}


def _insertion(where: str, value: Any) -> Insertion:
    insertion = Insertion(**read_table(where, value, _INSERTION, ("site", "module", "attention", "channels")))
    if not insertion.module:
        raise PlanError(f"{where}: module must not be empty")
    if word := next((part for part in insertion.module.split(".") if keyword.iskeyword(part)), None):
        # The graph's code calls the module by its path.
        raise PlanError(f"{where}: module must not have {word!r} in it, which is a word of Python's own")
    return insertion


_SOURCE: dict[str, Reader] = {
    "kind": one_of(SOURCE_KINDS),
    "name": text,
    "args": options,
    "pretrained": flag,
    "checkpoint": text,
    "seed": whole,
}


def _source(where: str, value: Any) -> Source:
    return Source(**read_table(where, value, _SOURCE, ("kind", "name")))


_PLAN: dict[str, Reader] = {
    "insertions": tuple_of(_insertion),
    "attention": text,
    "init": one_of(INITS),
    "removals": tuple_of(_site),
    "source": _source,
    "scope": path,
    "kinds": tuple_of(one_of(KINDS)),
    "input_shape": tuple_of(positive),
    "notes": tuple_of(text),
}
