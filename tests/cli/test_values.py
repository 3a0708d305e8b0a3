from __future__ import annotations

from collections.abc import Callable

import pytest
import typer

from attn_inject.cli.values import given, literal, numbers, once, pairs, per_stage, sides, words


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("-1", -1),
        ("True", True),
        ("false", False),
        ("None", None),
        ("[3, 5]", [3, 5]),
        ("(1, 2)", (1, 2)),
        ("'a'", "a"),
        ("relu", "relu"),
        ("a=b", "a=b"),
        ("__import__('os')", "__import__('os')"),
        ("(" * 10_000, "(" * 10_000),
    ],
)
def test_a_value_is_a_literal_or_itself(text: str, value: object) -> None:
    assert literal(text) == value


def test_pairs() -> None:
    assert pairs(["a=1", "b = x", "c="], "--option") == {"a": 1, "b": "x", "c": ""}
    assert pairs(None, "--option") == {}


@pytest.mark.parametrize("text", ["a", "=1", "1a=2", "a b=1", ""])
def test_what_is_no_pair_names_its_option(text: str) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        pairs([text], "--option")
    assert caught.value.param_hint == "--option"


def test_lists() -> None:
    assert words("a, b,,c") == ["a", "b", "c"]
    assert words(None) is None
    assert numbers("3, 4", "--stages") == [3, 4]
    assert numbers("3X224x224", "--input-size", separator="x") == [3, 224, 224]
    for text in ("", "a", "-1", "1.5", "3,,4", "9" * 30, "٣"):
        with pytest.raises(typer.BadParameter):
            numbers(text, "--stages")


def test_a_side_of_zero() -> None:
    assert sides("3x224x160") == [3, 224, 160]
    assert sides(None) is None
    for text in ("0", "3x0x5"):
        with pytest.raises(typer.BadParameter, match="cannot be 0"):
            sides(text)


def test_options_per_stage() -> None:
    assert per_stage(["3:k=3", "4:k=7", "4:b=2"], "--stage-option") == {3: {"k": 3}, 4: {"k": 7, "b": 2}}
    assert per_stage([], "--stage-option") is None
    for text in ("k=3", "x:k=3", "3:k", "123:k=1"):
        with pytest.raises(typer.BadParameter):
            per_stage([text], "--stage-option")


def test_only_what_was_given() -> None:
    assert given(a=None, b=0, c=[], d=False, e="x") == {"b": 0, "d": False, "e": "x"}


@pytest.mark.parametrize(
    "read",
    [
        lambda: pairs(["a=1", "a=1"], "--option"),
        lambda: per_stage(["1:a=1", "2:a=1", "1:b=1", "1:a=2"], "--option"),
        lambda: once({"a": 1}, {"b": 1, "a": 2}, "--option"),
    ],
)
def test_what_is_given_twice_is_refused(read: Callable[[], object]) -> None:
    with pytest.raises(typer.BadParameter, match="^a is given twice: give it once$"):
        read()
    assert per_stage(["1:a=1", "1:b=1", "2:a=3"], "--option") == {1: {"a": 1, "b": 1}, 2: {"a": 3}}


@pytest.mark.parametrize(
    ("text", "separator", "mend"),
    [("x", ",", ""), ("1x2", ",", ": write 1,2"), ("3,x", "x", ""), ("3,8", "x", ": write 3x8")],
)
def test_a_list_with_the_other_separator_is_shown_with_the_right_one(text: str, separator: str, mend: str) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        numbers(text, "--stages", separator=separator)
    assert str(caught.value) == f"'{text}' is not a list of whole numbers{mend}"
