"""A plan is the same after dict, JSON and TOML; what is no plan, or could not be read back, is one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_inject.errors import PlanError
from attn_inject.planning.tables import MAX_NUMBER
from attn_inject.planning.text import (
    SOURCE_KINDS,
    plan_from_dict,
    plan_from_json,
    plan_from_toml,
    plan_to_dict,
    plan_to_json,
    plan_to_toml,
)
from attn_inject.types import INITS, KINDS, PLACEMENTS, Insertion, Plan, Site, Source

SITE = Site(
    kind="residual",
    block="layer1.0",
    index=0,
    channels=16,
    size=(8, 8),
    layout="channels_first",
    stage=2,
    node="bn2",
    join="add",
)
INSERTION = Insertion(site=SITE, module="layer1.0.se", attention="se", channels=16)
PLAN = Plan(insertions=(INSERTION,), attention="se")


def with_options(options: dict[str, Any]) -> Plan:
    return replace(PLAN, insertions=(replace(INSERTION, options=options),))


def test_what_is_as_by_default_is_left_out() -> None:
    assert plan_to_dict(PLAN) == {
        "format": 1,
        "attention": "se",
        "init": "paper",
        "kinds": ["residual", "mixed"],
        "insertions": [
            {
                "site": {
                    "kind": "residual", "block": "layer1.0", "index": 0, "channels": 16, "size": [8, 8],
                    "layout": "channels_first", "stage": 2, "node": "bn2", "join": "add", "calls": 1, "existing": "",
                },
                "module": "layer1.0.se", "attention": "se", "placement": "standard", "init": "paper", "channels": 16,
            }
        ],
    }  # fmt: skip


def test_a_callers_own_factory_is_not_in_the_text() -> None:
    assert plan_to_json(replace(PLAN, factory=dict)) == plan_to_json(PLAN)


def test_the_least_that_is_a_plan() -> None:
    assert plan_from_toml('format = 1\nattention = "none"\ninsertions = []') == Plan(insertions=(), attention="none")


# Nothing that `tables` refuses: `test_tables.py` has that.
words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)
paths = st.from_regex(r"[a-z_]{1,4}(\.[0-9]{1,2}){0,2}", fullmatch=True)
identifiers = st.from_regex(r"[^\W\d]\w{0,5}", fullmatch=True).filter(str.isidentifier)
whole = st.integers(0, MAX_NUMBER)
positive = st.integers(1, MAX_NUMBER)
number = st.integers(-MAX_NUMBER, MAX_NUMBER) | st.floats(-1e12, 1e12)
odd_values = st.recursive(
    number | st.booleans() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
odd_options = st.dictionaries(identifiers, odd_values, max_size=3)
sites = st.builds(
    Site,
    kind=st.sampled_from(KINDS),
    block=paths | st.just(""),
    index=whole,
    channels=positive,
    size=st.lists(positive, max_size=3).map(tuple),
    layout=st.sampled_from(("channels_first", "channels_last")),
    stage=whole,
    node=words,
    join=words,
    calls=positive,
    existing=words,
)
insertions = st.builds(
    Insertion,
    site=sites,
    module=paths.map("m_".__add__),
    attention=words,
    options=odd_options,
    placement=st.sampled_from(PLACEMENTS),
    init=st.sampled_from(INITS),
    channels=positive,
    replaces=st.none() | paths,
)
sources = st.builds(
    Source,
    kind=st.sampled_from(SOURCE_KINDS),
    name=words,
    args=odd_options,
    pretrained=st.booleans(),
    checkpoint=st.none() | words,
    seed=st.none() | whole,
)
plans = st.builds(
    Plan,
    insertions=st.lists(insertions, max_size=3, unique_by=lambda insertion: insertion.module).map(tuple),
    attention=words,
    init=st.sampled_from(INITS),
    removals=st.lists(sites, max_size=2).map(tuple),
    source=st.none() | sources,
    scope=st.none() | paths,
    kinds=st.lists(st.sampled_from(KINDS), max_size=3).map(tuple),
    input_shape=st.none() | st.lists(positive, max_size=4).map(tuple),
    notes=st.lists(words, max_size=2).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(plans)
def test_a_plan_is_the_same_after_dict_json_and_toml(plan: Plan) -> None:
    assert plan_from_dict(plan_to_dict(plan)) == plan
    assert plan_from_json(plan_to_json(plan)) == plan
    assert plan_from_toml(plan_to_toml(plan).encode()) == plan


@pytest.mark.parametrize(
    "options",
    [
        {"k": 0, "flag": False, "nothing": "", "none_there": [], "empty": {}},
        {"gate": "😀 \x7f \x1b \\ \" ' \r\n \u2028"},
        {"ärmel": {"a.b": {"": [1, {"c d": 2}]}}},
        {"scales": [{"k": 3}, {"k": 5}], "mixed": [{"k": 3}, 5]},
        {"tiny": 5e-324, "large": 1e12, "minus": -0.0, "whole": 1e0},
        {"levels": [[[[["deep"]]]]]},
    ],
)
def test_odd_options_survive(options: dict[str, Any]) -> None:
    for write, read in ((plan_to_dict, plan_from_dict), (plan_to_json, plan_from_json), (plan_to_toml, plan_from_toml)):
        again = read(write(with_options(options))).insertions[0].options
        assert again == options
        assert repr(sorted(again.items(), key=str)) == repr(sorted(options.items(), key=str))


def test_what_is_like_a_list_or_a_number_becomes_one() -> None:
    for write, read in ((plan_to_json, plan_from_json), (plan_to_toml, plan_from_toml)):
        again = read(write(with_options({"kernels": (3, (5, 7)), "factor": np.float64(0.5)})))
        assert again == with_options({"kernels": [3, [5, 7]], "factor": 0.5})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "the plan: options x holds <object object at .*>, which cannot be written down"),
        ({"a": [{1, 2}]}, "the plan: options x a holds {1, 2}, which cannot be written down"),
        ({4: "by stage"}, "the plan: options x holds {4: 'by stage'}, which cannot be written down"),
        (np.zeros((9, 9)), r"the plan: options x holds array\(\[\[0., 0.,"),
        (float("inf"), "the plan: options x must be a finite number"),
        ([float("nan")], "the plan: options x must be a finite number"),
        (2**41, "the plan: options x must be a finite number of sensible size"),
        ("\ud800", "the plan: options x must be valid text"),
        ([[[[[[1]]]]]], "the plan: options x is nested or long beyond any use"),
        ([0] * 201, "the plan: options x is nested or long beyond any use"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(value: Any, message: str) -> None:
    for write in (plan_to_dict, plan_to_json, plan_to_toml):
        with pytest.raises(PlanError, match=message) as caught:
            write(with_options({"x": value}))
        assert "\n" not in str(caught.value)


def at(*keys: str | int) -> Callable[[Any], Any]:
    def reach(data: Any) -> Any:
        for key in keys:
            data = data[key]
        return data

    return reach


PLACES: dict[str, Callable[[Any], Any]] = {
    "the plan": at(),
    "the plan: insertions 0": at("insertions", 0),
    "the plan: insertions 0: site": at("insertions", 0, "site"),
    "the plan: removals 0": at("removals", 0),
    "the plan: source": at("source"),
}
REQUIRED = {
    "the plan": ("insertions", "attention"),
    "the plan: insertions 0": ("site", "module", "attention", "channels"),
    "the plan: insertions 0: site": ("kind", "block", "index", "channels", "size", "layout", "stage", "node", "join"),
    "the plan: removals 0": ("kind", "block", "index", "channels", "size", "layout", "stage", "node", "join"),
    "the plan: source": ("kind", "name"),
}


def whole_table() -> dict[str, Any]:
    """A plan with every table in it, as a dict that is the test's own."""
    full = replace(PLAN, removals=(SITE,), source=Source("cifar", "resnet20"))
    table: dict[str, Any] = json.loads(plan_to_json(full))
    return table


@pytest.mark.parametrize("where", PLACES)
def test_each_table_of_a_plan_has_known_keys_only_and_all_that_it_needs(where: str) -> None:
    for key in PLACES[where](whole_table()):
        table = whole_table()
        place = PLACES[where](table)
        value = place.pop(key)
        if key in REQUIRED[where]:
            with pytest.raises(PlanError) as caught:
                plan_from_dict(table)
            assert str(caught.value) == f"{where} lacks {key}"
        elif key != "format":
            plan_from_dict(table)
        place[f"{key}s_"] = value
        with pytest.raises(PlanError):
            plan_from_dict(table)
    table = whole_table()
    PLACES[where](table)["atention"] = 1
    with pytest.raises(PlanError) as caught:
        plan_from_dict(table)
    assert str(caught.value).startswith(f"{where} has an unknown key 'atention'")


@pytest.mark.parametrize(
    ("where", "key", "value", "message"),
    [
        ("the plan", "attenton", 1, "the plan has an unknown key 'attenton' (did you mean attention?)"),
        ("the plan", "format", 2, "the plan is of format 2, and this version reads up to 1: update attn-inject"),
        ("the plan", "format", 0, "the plan has no format number"),
        ("the plan", "init", "papr", "the plan: init must be one of paper, identity, got 'papr' (did you mean paper?)"),
        ("the plan", "source", None, "the plan: source must be a table of named values, not NoneType"),
        ("the plan", "insertions", {}, "the plan: insertions must be a list of 0 to 20,000 items"),
        ("the plan", "scope", "a..b", "the plan: scope must be a dotted module path"),
        ("the plan", "notes", "a note", "the plan: notes must be a list"),
        ("the plan: insertions 0", "module", "", "the plan: insertions 0: module must not be empty"),
        ("the plan: insertions 0", "module", "a.lambda.b", "module must not have 'lambda' in it"),
        ("the plan: insertions 0", "options", {"a b": 1}, "the plan: insertions 0: options has a key that is no name"),
        ("the plan: insertions 0", "channels", 0, "the plan: insertions 0: channels must be a whole number from 1"),
        ("the plan: insertions 0", "replaces", None, "the plan: insertions 0: replaces must be a text"),
        ("the plan: insertions 0: site", "size", [8, 0], "site: size 1 must be a whole number from 1, got 0"),
        ("the plan: insertions 0: site", "layout", "x", "site: layout must be one of channels_first, channels_last"),
        ("the plan: source", "pretrained", 1, "the plan: source: pretrained must be true or false, got 1"),
        ("the plan: source", "seed", -1, "the plan: source: seed must be a whole number from 0, got -1"),
    ],
)
def test_a_faulty_plan_is_one_sentence(where: str, key: str, value: Any, message: str) -> None:
    table = whole_table()
    PLACES[where](table)[key] = value
    with pytest.raises(PlanError) as caught:
        plan_from_dict(table)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_module_is_put_in_twice() -> None:
    with pytest.raises(PlanError, match=r"the plan names the module layer1.0.se twice"):
        plan_from_dict(plan_to_dict(replace(PLAN, insertions=(INSERTION, INSERTION))))


@pytest.mark.parametrize("data", [None, [], "plan", 1, {1: 2}])
def test_what_is_no_table_is_no_plan(data: Any) -> None:
    with pytest.raises(PlanError, match="the plan must be a table of named values"):
        plan_from_dict(data)


def test_a_block_with_attention_in_a_hundred_modules_is_read_back() -> None:
    """A long skip around a network of such blocks (RCAN): each of their paths is in its site."""
    site = replace(
        SITE, existing=",".join(f"body.{block}.attention.{unit}" for block in range(10) for unit in range(11))
    )
    plan = replace(PLAN, insertions=(replace(INSERTION, site=site),))
    assert len(site.existing) > 2_000
    assert plan_from_json(plan_to_json(plan)) == plan
    assert plan_from_toml(plan_to_toml(plan)) == plan
