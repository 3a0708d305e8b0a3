"""Texts of the command line as Python values; a text of the wrong form is a usage error that names its option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from attn_inject.attention.specs import literal
from attn_inject.sites.kinds import checked_kinds
from attn_inject.tracing.input_forms import DTYPES, InputForm, InputForms
from attn_inject.types import Kind


def given(**settings: Any) -> dict[str, Any]:
    """What was said on the command line: the rest is left to the library's defaults, or to a recipe."""
    return {key: value for key, value in settings.items() if value is not None and value != []}


def pairs(texts: Sequence[str] | None, option: str) -> dict[str, Any]:
    """`KEY=VALUE` texts as arguments, each key once; a value is a Python literal, or else itself."""
    found: dict[str, Any] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key.strip().isidentifier():
            raise typer.BadParameter(f"'{text}' is not of the form key=value", param_hint=option)
        found |= once(found, {key.strip(): literal(value.strip())}, option)
    return found


def once(found: Mapping[str, Any], more: Mapping[str, Any], option: str) -> Mapping[str, Any]:
    """`more`, of which nothing has been found yet. Raises BadParameter for what has."""
    for key in more:
        if key in found:
            raise typer.BadParameter(f"{key} is given twice: give it once", param_hint=option)
    return more


def words(text: str | None) -> list[str] | None:
    """A list written with commas."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def kinds_of(text: str | None) -> tuple[Kind, ...] | None:
    """A list of kinds of sites. Raises PlanError for one that does not exist."""
    return None if text is None else checked_kinds(words(text) or [])  # type: ignore[arg-type]  # checked here


def numbers(text: str | None, option: str, separator: str = ",") -> list[int] | None:
    """A list of whole numbers written with `separator`."""
    if text is None:
        return None
    found = _whole_numbers(text, separator)
    if found is None:
        other = {"x": ",", ",": "x"}[separator]
        mend = f": write {text.replace(other, separator)}" if _whole_numbers(text, other) else ""
        raise typer.BadParameter(f"'{text}' is not a list of whole numbers{mend}", param_hint=option)
    return found


def sides(text: str | None) -> list[int] | None:
    """The size of an input, as --input-size says it: whole numbers of at least 1, written with x."""
    found = numbers(text, "--input-size", separator="x")
    if found and 0 in found:
        raise typer.BadParameter("a side of the input cannot be 0", param_hint="--input-size")
    return found


def _whole_numbers(text: str, separator: str) -> list[int] | None:
    parts = [part.strip() for part in text.lower().split(separator)]
    are_whole = all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts)
    return [int(part) for part in parts] if are_whole else None


def input_forms(
    texts: Sequence[str] | None, option: str, *, input_size: str | None, size_option: str
) -> InputForms | None:
    """`NAME=SIZE[:DTYPE]` texts as the forms of a model's inputs, which say its sizes instead of `input_size`."""
    if not texts:
        return None
    if input_size is not None:
        raise typer.BadParameter(f"the sizes are in {option}: leave {size_option} out", param_hint=size_option)
    forms: dict[str, InputForm] = {}
    for text in texts:
        name, equals, form = text.partition("=")
        size, colon, dtype = form.partition(":")
        if not equals or not all(part.isidentifier() or part.isdecimal() for part in name.split(".")):
            raise typer.BadParameter(f"'{text}' is not of the form NAME=SIZE, such as mask=1x32x32", param_hint=option)
        if colon and dtype not in DTYPES:
            raise typer.BadParameter(f"'{dtype}' is not one of {', '.join(DTYPES)}", param_hint=option)
        if name in forms:
            raise typer.BadParameter(f"{name} is given twice", param_hint=option)
        forms[name] = InputForm(tuple(numbers(size, option, separator="x") or ()) if size else (), dtype or None)
    return InputForms(forms)


def per_stage(texts: Sequence[str] | None, option: str) -> dict[int, dict[str, Any]] | None:
    """`STAGE:KEY=VALUE` texts as options per stage."""
    found: dict[int, dict[str, Any]] = {}
    for text in texts or ():
        stage, colon, pair = text.partition(":")
        if not colon or not stage.isascii() or not stage.isdecimal() or len(stage) > 2:
            raise typer.BadParameter(f"'{text}' is not of the form stage:key=value", param_hint=option)
        of_stage = found.setdefault(int(stage), {})
        of_stage |= once(of_stage, pairs([pair], option), option)
    return found or None
