"""A `Folding` as plain dictionaries; `views.fold_text` shows it to people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..cost.samples import is_resolved
from ..surgery.folding import Folding, Pace


def folding_to_dict(folding: Folding) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers, as `reporting.study_schema` documents them."""
    before, after = folding.parameters
    return {
        **asdict(folding),
        "kept": [{"block": block, "reason": reason} for block, reason in folding.kept],
        "parameters": {"before": before, "after": after},
        "speed": None if folding.speed is None else {**asdict(folding.speed), "resolved": resolved(folding.speed)},
    }


def resolved(speed: Pace) -> bool:
    """Whether the ratio may be claimed."""
    return is_resolved(speed.ratio, speed.low, speed.high, speed.confidence, contended=speed.contended)
