"""What stands beside the tensors in every format: one JSON text with the plan and how it came to be.

{"format": 1, "plan": {...}, "versions": {...}, "fingerprint": "...", "attention_only": false, "training": false,
 "frozen": ["conv1.weight", ...], "aliases": {"tied.weight": "first.weight"}, "verification": [["edits", true, "..."]]}

A model whose code decided on sizes also has "guards": [["net.py:7 `if h % 2:`", "False"], ...] and "any_size": false;
one with several, named or structured inputs has "inputs", as `inputs.py` writes them. Where several submodules were
patched, "others" is a list of the rest's tables, with "plan", "versions", "fingerprint", "verification" and what is
said of sizes. One with gates in its layers has "folding", as `folding.py` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import CheckpointError, PlanError
from ..planning.tables import MAX_TEXT, Reader, flag, from_json, of_format, read_table, table_of, text_of, tuple_of
from ..planning.text import FORMAT, plan_from_dict, plan_to_dict
from ..surgery.folding import Folding
from ..types import Check, Guard, Injection, Plan, Source, Verification
from .folding import checked_folding, folding_to_plain
from .inputs import checked_inputs


@dataclass(frozen=True, kw_only=True)
class Record:
    """The JSON part of a file."""

    plan: Plan
    versions: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    attention_only: bool = False
    training: bool = False
    frozen: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    verification: Verification | None = None
    guards: tuple[Guard, ...] = ()
    any_size: bool = True
    inputs: Mapping[str, Any] | None = None
    others: tuple[Injection, ...] = ()
    folding: Folding | None = None

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans of all patched parts, that of the last one last."""
        return (*(other.plan for other in self.others), self.plan)

    @property
    def source(self) -> Source | None:
        """Where the model comes from; whoever patched it first may have said so alone."""
        return next((plan.source for plan in reversed(self.plans) if plan.source is not None), None)


def record_to_text(record: Record) -> str:
    """The record as JSON.

    Raises:
        PlanError: the plan has an option's value that could not be read back.

    """
    return json.dumps(
        {
            "format": FORMAT,
            "plan": plan_to_dict(record.plan),
            "versions": dict(record.versions),
            "fingerprint": record.fingerprint,
            "attention_only": record.attention_only,
            "training": record.training,
            "frozen": list(record.frozen),
            "aliases": dict(record.aliases),
            "verification": _checks_of(record),
            # Left out where there is nothing to say: earlier versions of this library do not know the words.
            **_sizes_of(record),
            **({"inputs": record.inputs} if record.inputs is not None else {}),
            **({"others": [_table_of(other) for other in record.others]} if record.others else {}),
            **({"folding": folding_to_plain(record.folding)} if record.folding is not None else {}),
        },
        allow_nan=False,
    )


def _table_of(injection: Injection) -> dict[str, Any]:
    return {
        "plan": plan_to_dict(injection.plan),
        "versions": dict(injection.versions),
        "fingerprint": injection.fingerprint,
        "verification": _checks_of(injection),
        **_sizes_of(injection),
    }


def _checks_of(record: Record | Injection) -> list[list[Any]]:
    checks = record.verification.checks if record.verification else ()
    return [[check.name, check.passed, check.figure] for check in checks]


def _sizes_of(record: Record | Injection) -> dict[str, Any]:
    if not record.guards and record.any_size:
        return {}
    return {"guards": [[guard.line, guard.outcome] for guard in record.guards], "any_size": record.any_size}


def record_from_text(text: str | bytes, path: object) -> Record:
    """The record in a file's JSON.

    Raises:
        CheckpointError: it is none; names the file and what is wrong.

    """
    try:
        table = of_format("the record", from_json("the record", text), FORMAT)
        record = Record(**read_table("the record", table, _RECORD, ("plan",)))
        _must_be_of_different_parts(record.plans)
        return record
    except PlanError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _must_be_of_different_parts(plans: tuple[Plan, ...]) -> None:
    scopes = [plan.scope or "" for plan in plans]
    if len(set(scopes)) < len(scopes):
        raise PlanError("the record has two plans for the same part of the model")


def _other(where: str, value: Any) -> Injection:
    return Injection(**{"versions": {}, **read_table(where, value, _PART, ("plan",))})


def _plan(_where: str, value: Any) -> Plan:
    return plan_from_dict(value)


def _check(where: str, value: Any) -> Check:
    if not isinstance(value, list) or len(value) != 3:
        raise PlanError(f"{where} must be a list of a name, whether it holds, and a figure")
    name, passed, figure = value
    return Check(
        name=_text(f"{where} name", name),
        passed=flag(f"{where} passed", passed),
        figure=_text(f"{where} figure", figure),
    )


def _verification(where: str, value: Any) -> Verification | None:
    checks = tuple_of(_check)(where, value)
    return Verification(checks) if checks else None


def _guard(where: str, value: Any) -> Guard:
    if not isinstance(value, list) or len(value) != 2:
        raise PlanError(f"{where} must be a list of a line of code and what it came to")
    line, outcome = value
    return Guard(_text(f"{where} line", line), _text(f"{where} outcome", outcome))


# A network may have any number of tensors, with names of any length: the length of the whole is the bound.
_text = text_of(MAX_TEXT)

_PART: dict[str, Reader] = {
    "plan": _plan,
    "versions": table_of(_text),
    "fingerprint": _text,
    "verification": _verification,
    "guards": tuple_of(_guard, most=MAX_TEXT),
    "any_size": flag,
}
_RECORD: dict[str, Reader] = {
    **_PART,
    "inputs": checked_inputs,
    "attention_only": flag,
    "training": flag,
    "frozen": tuple_of(_text, most=MAX_TEXT),
    "aliases": table_of(_text),
    "others": tuple_of(_other),
    "folding": checked_folding,
}
