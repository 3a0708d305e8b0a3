"""The JSON beside the tensors: the same after a round trip, and each fault is one sentence that names file and key."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from attn_inject import CheckpointError, PlanError
from attn_inject.saving.record import Record, record_from_text, record_to_text
from attn_inject.surgery.folding import Folding, Pace
from attn_inject.types import Check, Effect, Insertion, Plan, Site, Verification

SITE = Site("residual", "", 0, 4, (8, 8), "channels_first", 1, "bn", "add")
RECORD = Record(
    plan=Plan(insertions=(Insertion(site=SITE, module="se", attention="se", channels=4),), attention="se"),
    versions={"torch": "2.9"},
    fingerprint="f",
    attention_only=True,
    training=True,
    frozen=("a.weight", "b-c.weight"),
    aliases={"tied.weight": "first.weight"},
    verification=Verification((Check(name="edits", passed=True, figure="1 site"),)),
)


FOLDED = Folding(
    folded=("", "layer1.0"), kept=(("layer2.0", "it is no gate"),), tolerance=0.01, error=Effect(-0.001, -0.01, 0.008),
    images=600, parameters=(1500, 1200), speed=Pace(0.2, 0.19, 0.95, 0.93, 0.97, 0.95, 30, contended=True),
    measure="accuracy",
)  # fmt: skip
WITH_FOLDING = replace(RECORD, folding=FOLDED)


def test_a_record_is_the_same_after_its_text() -> None:
    few = replace(FOLDED, error=Effect(0.0, None, None), speed=None, measure="outputs")
    for record in (RECORD, Record(plan=RECORD.plan), WITH_FOLDING, replace(RECORD, folding=few)):
        assert record_from_text(record_to_text(record), "m.pt") == record
        assert record_from_text(record_to_text(record).encode(), "m.pt") == record


def test_no_number_of_tensors_and_no_length_of_a_name_is_too_much() -> None:
    long = replace(RECORD, frozen=("x" * 5_000, *("name",) * 30_000))
    assert record_from_text(record_to_text(long), "m.pt") == long


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan": None}, "the plan must be a table of named values, not NoneType"),
        ({"plan": {"format": 2}}, "the plan is of format 2, and this version reads up to 1: update attn-inject"),
        ({"format": 2, "new": 1}, "the record is of format 2, and this version reads up to 1: update attn-inject"),
        ({"format": True}, "the record has no format number: it was not written by attn-inject"),
        ({"alias": {}}, "the record has an unknown key 'alias' (did you mean aliases?)"),
        ({"versions": {"torch": 2}}, "the record: versions 'torch' must be a text of"),
        ({"fingerprint": None}, "the record: fingerprint must be a text of"),
        ({"attention_only": 1}, "the record: attention_only must be true or false, got 1"),
        ({"training": "yes"}, "the record: training must be true or false, got 'yes'"),
        ({"frozen": "all"}, "the record: frozen must be a list of"),
        ({"frozen": ["a", 1]}, "the record: frozen 1 must be a text of"),
        ({"aliases": []}, "the record: aliases must be a table of named values, not list"),
        ({"verification": [["edits", True]]}, "the record: verification 0 must be a list of a name, whether it holds"),
        ({"verification": [["edits", 1, ""]]}, "the record: verification 0 passed must be true or false, got 1"),
    ],
)
def test_a_faulty_record_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        record_from_text(json.dumps(json.loads(record_to_text(RECORD)) | changes), "m.pt")
    assert str(caught.value).startswith(f"m.pt: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measured": 1}, "has an unknown key 'measured' (did you mean measure?)"),
        ({"folded": ["../a"]}, "folded 0 must be a dotted module path"),
        ({"kept": [["a"]]}, "kept 0 must be a list of 2 items"),
        ({"tolerance": "1"}, "tolerance must be a finite number, got '1'"),
        ({"tolerance": 10**400}, "tolerance must be a finite number, got a number of"),
        ({"error": [None, 0, 0]}, "error 0 must be a finite number, got None"),
        ({"images": -1}, "images must be a whole number from 0, got -1"),
        ({"parameters": [1]}, "parameters must be a list of 2 items"),
        ({"measure": "loss"}, "measure must be one of outputs, accuracy"),
        ({"speed": [1, 2, 3]}, "speed must be a list of 8 items"),
        ({"speed": [1, 2, 3, 4, 5, 6, 7, 8]}, "speed 7 must be true or false, got 8"),
    ],
)
def test_a_faulty_folding_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    table = json.loads(record_to_text(WITH_FOLDING))
    table["folding"] |= changes
    with pytest.raises(CheckpointError, match=rf"^m.pt: the record: folding(:|) {re.escape(message)}"):
        record_from_text(json.dumps(table), "m.pt")


def test_a_record_without_folding_does_not_name_it() -> None:
    """Earlier versions do not know the word."""
    assert "folding" not in json.loads(record_to_text(RECORD))


def test_a_text_that_is_no_record() -> None:
    for text, message in (
        ("{", "no valid JSON"),
        ("[NaN]", "NaN is no number"),
        ("[]", "must be a table"),
        ('{"format": 1}', "lacks plan"),
    ):
        with pytest.raises(CheckpointError, match=f"^m.pt: the record .*{message}"):
            record_from_text(text, "m.pt")


def test_a_plan_that_could_not_be_read_back_is_not_written() -> None:
    first = replace(RECORD.plan.insertions[0], options={"gamma": float("inf")})
    with pytest.raises(PlanError, match="options gamma must be a finite number"):
        record_to_text(replace(RECORD, plan=replace(RECORD.plan, insertions=(first,))))
