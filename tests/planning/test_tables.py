"""Each reader takes what it must and refuses the rest, in one sentence that names the key."""

from __future__ import annotations

import datetime
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_inject.errors import PlanError
from attn_inject.planning.tables import (
    MAX_ITEMS,
    MAX_NUMBER,
    MAX_STRING,
    MAX_TEXT,
    Reader,
    filled_text,
    flag,
    from_json,
    from_toml,
    named_values,
    of_format,
    one_of,
    options,
    path,
    plain,
    positive,
    read_table,
    shown,
    table_of,
    text,
    text_of,
    tuple_of,
    whole,
)

HALF_A_PAIR = "\ud800"
HUGE = 10**5000
# Cases are numbered: what is refused for its length would be too long for the name of a test.
word = one_of(("left", "right"))
few = tuple_of(positive, least=1, most=2)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


SOUND: list[tuple[Reader, Any, Any]] = [
    (text, "", ""),
    (text, "é 😀 \n", "é 😀 \n"),
    (text, "x" * MAX_STRING, "x" * MAX_STRING),
    (text_of(3), "abc", "abc"),
    (filled_text, " a ", " a "),
    (path, "", ""),
    (path, "layer1.0.se_2", "layer1.0.se_2"),
    (whole, 0, 0),
    (whole, MAX_NUMBER, MAX_NUMBER),
    (positive, 1, 1),
    (flag, False, False),
    (word, "left", "left"),
    (few, [1, 2], (1, 2)),
    (tuple_of(whole), [], ()),
    (tuple_of(tuple_of(word)), [["left"], []], (("left",), ())),
    (table_of(text), {"a b": "c", "": ""}, {"a b": "c", "": ""}),
    (named_values, {"a": [object]}, {"a": [object]}),
    (options, {"k": 3, "ärmel": None}, {"k": 3, "ärmel": None}),
    (plain, None, None),
    (plain, True, True),
    (plain, -MAX_NUMBER, -MAX_NUMBER),
    (plain, 1e-300, 1e-300),
    (plain, nested(5), nested(5)),
    (plain, [0] * 200, [0] * 200),
    (plain, {"not a name": [{"x": "y"}]}, {"not a name": [{"x": "y"}]}),
]


@pytest.mark.parametrize(("read", "value", "result"), SOUND, ids=range(len(SOUND)))
def test_what_is_sound_is_given_back(read: Reader, value: Any, result: Any) -> None:
    got = read("here", value)
    assert got == result
    assert type(got) is type(result)


FAULTY: list[tuple[Reader, Any, str]] = [
    (text, 3, "here must be a text of at most 2,000 characters"),
    (text, b"a", "here must be a text"),
    (text, "x" * (MAX_STRING + 1), "here must be a text"),
    (text, "a\0b", "none of them NUL"),
    (text, HALF_A_PAIR, "here must be valid text"),
    (text_of(3), "abcd", "here must be a text of at most 3 characters"),
    (filled_text, " \t\n", "here must be a text that is not blank"),
    (filled_text, None, "here must be a text"),
    (path, ".", "here must be a dotted module path such as layer1.0.se, not '.'"),
    (path, "a..b", "here must be a dotted module path"),
    (path, "../etc", "here must be a dotted module path"),
    (path, "a\n", "here must be a dotted module path"),
    (path, "a\x1bb", "here must be a dotted module path"),
    (path, "a/b", "here must be a dotted module path"),
    (path, 1, "here must be a text"),
    (whole, -1, "here must be a whole number from 0, got -1"),
    (whole, 1.0, "here must be a whole number from 0, got 1.0"),
    (whole, True, "here must be a whole number from 0, got True"),
    (whole, "1", "here must be a whole number from 0, got '1'"),
    (whole, MAX_NUMBER + 1, "here must be a whole number from 0"),
    (whole, HUGE, "got a number of 16610 bits"),
    (whole, -HUGE, "got a number of 16610 bits"),
    (positive, 0, "here must be a whole number from 1, got 0"),
    (positive, [[]], "got a list"),
    (flag, 1, "here must be true or false, got 1"),
    (flag, "true", "here must be true or false, got 'true'"),
    (flag, None, "here must be true or false, got None"),
    (word, "lefd", "here must be one of left, right, got 'lefd' (did you mean left?)"),
    (word, "x" * 10**6, f"got '{'x' * 40}'"),
    (word, ["left"], "here must be one of left, right, got a list"),
    (word, {}, "got a table"),
    (few, [], "here must be a list of 1 to 2 items"),
    (few, [1, 2, 3], "here must be a list of 1 to 2 items"),
    (few, (1,), "here must be a list"),
    (few, "12", "here must be a list"),
    (few, {"1": 2}, "here must be a list"),
    (few, [1, 0], "here 1 must be a whole number from 1, got 0"),
    (tuple_of(whole), [0] * (MAX_ITEMS + 1), "here must be a list of 0 to 20,000 items"),
    (table_of(text), [], "here must be a table of named values, not list"),
    (table_of(text), {"a\nb": 1}, "here 'a\\nb' must be a text"),
    (table_of(text), {"a\0": ""}, "here must be a text"),
    (named_values, {1: 2}, "here must be a table of named values"),
    (named_values, None, "here must be a table of named values, not NoneType"),
    (options, [], "here must be a table of named values, not list"),
    (options, {"a b": 1}, "here has a key that is no name: 'a b'"),
    (options, {"": 1}, "here has a key that is no name: ''"),
    (options, {"a.b": 1}, "here has a key that is no name"),
    (options, {"a" * 101: 1}, "here has a key that is no name"),
    (options, {"gamma": math.nan}, "here gamma must be a finite number"),
    (options, {"gamma": {"x": [math.inf]}}, "here gamma must be a finite number"),
    (plain, -math.inf, "here must be a finite number of sensible size"),
    (plain, 1e300, "here must be a finite number of sensible size"),
    (plain, HUGE, "here must be a finite number of sensible size"),
    (plain, "\0", "here must be a text"),
    (plain, {HALF_A_PAIR: 1}, "here must be valid text"),
    (plain, {1: 1}, "here must be a text"),
    (plain, nested(6), "here is nested or long beyond any use"),
    (plain, nested(10**5), "here is nested or long beyond any use"),
    (plain, [0] * 201, "here is nested or long beyond any use"),
    (plain, (1, 2), "here must be plain data, not tuple"),
    (plain, datetime.date(2020, 1, 1), "here must be plain data, not date"),
    (plain, 1j, "here must be plain data, not complex"),
]


@pytest.mark.parametrize(("read", "value", "message"), FAULTY, ids=range(len(FAULTY)))
def test_what_is_wrong_is_one_sentence(read: Reader, value: Any, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        read("here", value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


READERS: dict[str, Reader] = {"width": positive, "height": positive, "note": text}


def test_a_table_is_read_by_its_readers() -> None:
    assert read_table("here", {"height": 2, "width": 1}, READERS, ("width",)) == {"height": 2, "width": 1}
    assert read_table("here", {}, READERS, ()) == {}


NO_TABLES: list[tuple[Any, str]] = [
    ({"widht": 1}, "here has an unknown key 'widht' (did you mean width?)"),
    ({"zzz": 1}, "here has an unknown key 'zzz'"),
    ({"a\nb": 1}, "here has an unknown key 'a\\nb'"),
    ({HALF_A_PAIR: 1}, "here has an unknown key '\\ud800'"),
    ({"w" * 10**6: 1}, f"here has an unknown key '{'w' * 60}'"),
    ({"note": "n"}, "here lacks width, height"),
    ({"width": 1}, "here lacks height"),
    ({"width": 0, "height": 1}, "here: width must be a whole number from 1, got 0"),
    ([], "here must be a table of named values, not list"),
]


@pytest.mark.parametrize(("value", "message"), NO_TABLES, ids=range(len(NO_TABLES)))
def test_a_table_with_a_key_too_many_or_too_few_or_wrong(value: Any, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        read_table("here", value, READERS, ("width", "height"))
    assert str(caught.value) == message


def test_the_format_number_is_looked_at_before_the_keys() -> None:
    assert of_format("here", {"format": 2, "anything": None}, newest=2) == {"anything": None}
    assert of_format("here", {"format": 1}, newest=2) == {}
    for version in (None, True, "1", 1.0, 0, -1):
        with pytest.raises(PlanError, match="here has no format number"):
            of_format("here", {"format": version}, newest=2)
    with pytest.raises(PlanError, match="here has no format number"):
        of_format("here", {}, newest=2)
    with pytest.raises(PlanError, match="here is of format 3, and this version reads up to 2: update attn-inject"):
        of_format("here", {"format": 3, "unknown": 1}, newest=2)


NO_TEXTS: list[tuple[Any, str | bytes, str]] = [
    (from_json, "{", "here is no valid JSON: Expecting"),
    (from_json, "[NaN]", "here is no valid JSON: NaN is no number"),
    (from_json, "-Infinity", "here is no valid JSON: -Infinity is no number"),
    (from_json, "[" * 10**6, "here is no valid JSON: "),
    (from_json, "1" * 5000, "here is no valid JSON: "),
    (from_json, b"\xff", "here is no valid JSON: "),
    (from_json, " " * (MAX_TEXT + 1), "here is 16,000,001 characters long"),
    (from_toml, "a =", "here is no valid TOML: "),
    (from_toml, "a = 1\na = 2", "here is no valid TOML: "),
    (from_toml, "a = " + "[" * 10**5, "here is no valid TOML: "),
    (from_toml, b"\xff", "here is no valid TOML: "),
    (from_toml, " " * (MAX_TEXT + 1), "here is 16,000,001 characters long"),
]


@pytest.mark.parametrize(("parse", "content", "message"), NO_TEXTS, ids=range(len(NO_TEXTS)))
def test_texts_that_are_no_such_text(parse: Any, content: str | bytes, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse("here", content)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_texts_are_parsed_from_characters_and_from_bytes() -> None:
    json_text, toml_text = '{"é": [1, 2.5, null]}', '"é" = [1, 2.5]'
    assert from_json("here", json_text) == from_json("here", json_text.encode()) == {"é": [1, 2.5, None]}
    assert from_toml("here", toml_text) == from_toml("here", toml_text.encode()) == {"é": [1, 2.5]}


def test_shown_is_short_whatever_the_value() -> None:
    for value in (HUGE, -HUGE, "x" * 10**6, nested(10**5), {"a": nested(10**5)}, None, math.nan, 2**64 - 1):
        assert len(shown(value)) < 50


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=4),
    max_leaves=10,
)
EVERY: list[Reader] = [
    text, filled_text, path, whole, positive, flag, word, few, table_of(text), named_values, options, plain,
]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(values)
def test_a_reader_gives_the_value_or_a_plan_error(value: Any) -> None:
    for read in EVERY:
        try:
            got = read("here", value)
        except PlanError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert got == (tuple(value) if read is few else value)


def test_a_name_has_at_most_a_hundred_letters() -> None:
    assert options("the options", {"a" * 100: 1}) == {"a" * 100: 1}
    with pytest.raises(PlanError, match="^the options has a key that is no name: 'aaa"):
        options("the options", {"a" * 101: 1})
