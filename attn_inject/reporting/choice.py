"""A `Choice` as plain dictionaries and JSON; `views.choice_text`, `choice_html` and `choice_plot` show it to people."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ..planning.text import plan_to_dict
from ..studying.choice import Choice
from .study_schema import CHOICE_FORMAT, CHOICE_VERSION


def choice_to_dict(choice: Choice) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers, as `reporting.study_schema` documents them."""
    data = asdict(choice)
    for key, rows in (("sites", choice.sites), ("rows", choice.rows)):
        for made, row in zip(data[key], rows, strict=True):
            made["verdict"] = row.verdict  # type: ignore[attr-defined]  # both kinds of rows have one
    if choice.latency is not None:
        data["latency"]["resolved"] = choice.latency.resolved
    return {"format": CHOICE_FORMAT, "version": CHOICE_VERSION, **data, "plan": plan_to_dict(choice.plan)}


def choice_to_json(choice: Choice) -> str:
    """`choice_to_dict` as JSON text (no NaN, no infinity in it)."""
    return json.dumps(choice_to_dict(choice), allow_nan=False)
