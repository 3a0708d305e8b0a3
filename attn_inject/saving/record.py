"""What stands beside the tensors in every format: one JSON text with the plan and how it came to be.

{"format": 1, "plan": {...}, "versions": {...}, "fingerprint": "...", "attention_only": false, "training": false,
 "frozen": ["conv1.weight", ...], "aliases": {"tied.weight": "first.weight"}, "verification": [["edits", true, "..."]]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import CheckpointError, PlanError
from ..planning.text import FORMAT, MAX_TEXT, plan_from_dict, plan_to_dict, shown
from ..types import Check, Plan, Verification

_KEYS = {"format", "plan", "versions", "fingerprint", "attention_only", "training", "frozen", "aliases", "verification"}


@dataclass(frozen=True)
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


def record_to_text(record: Record) -> str:
    """The record as JSON."""
    checks = record.verification.checks if record.verification else ()
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
            "verification": [[check.name, check.passed, check.figure] for check in checks],
        },
        allow_nan=False,
    )


def record_from_text(text: str | bytes, path: object) -> Record:
    """The record in a file's JSON.

    Raises:
        CheckpointError: it is none; names what is wrong.

    """
    if len(text) > MAX_TEXT:
        raise CheckpointError(f"{path}: the record is {len(text)} bytes long, more than any plan needs")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the record is no valid JSON ({error})") from error
    if not isinstance(data, dict) or "plan" not in data:
        raise CheckpointError(f"{path}: this file holds no plan; it was not written by attn-inject")
    version = data.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CheckpointError(f"{path}: the format number is missing or wrong")
    if version > FORMAT:
        raise CheckpointError(
            f"{path}: format {shown(version)} is newer than this version reads ({FORMAT}): update attn-inject"
        )
    if unknown := sorted(set(data) - _KEYS):
        raise CheckpointError(f"{path}: the record has an unknown key {unknown[0][:60]!r}")
    try:
        plan = plan_from_dict(data["plan"])
    except PlanError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return Record(
        plan,
        _words(data.get("versions", {}), path),
        _typed(data.get("fingerprint", ""), str, path),
        _typed(data.get("attention_only", False), bool, path),
        _typed(data.get("training", False), bool, path),
        tuple(_typed(name, str, path) for name in _typed(data.get("frozen", []), list, path)),
        _words(data.get("aliases", {}), path),
        _verification(data.get("verification", []), path),
    )


def _typed(value: Any, kind: type, path: object) -> Any:
    if not isinstance(value, kind):
        raise CheckpointError(f"{path}: the record holds a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _words(value: Any, path: object) -> dict[str, str]:
    return {_typed(k, str, path): _typed(v, str, path) for k, v in _typed(value, dict, path).items()}


def _verification(value: Any, path: object) -> Verification | None:
    checks = []
    for item in _typed(value, list, path):
        if not isinstance(item, list) or [type(part) for part in item] != [str, bool, str]:
            raise CheckpointError(f"{path}: the record's verification is malformed")
        checks.append(Check(*item))
    return Verification(tuple(checks)) if checks else None
