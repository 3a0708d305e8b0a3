"""A `Folding` as plain dictionaries; `views.fold_text` shows it to people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..surgery.folding import Folding


def folding_to_dict(folding: Folding) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers, as `reporting.study_schema` documents them."""
    before, after = folding.parameters
    return {
        **asdict(folding),
        "kept": [{"block": block, "reason": reason} for block, reason in folding.kept],
        "parameters": {"before": before, "after": after},
        "speed": None if folding.speed is None else {**asdict(folding.speed), "resolved": folding.speed.resolved},
    }
