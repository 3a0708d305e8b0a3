"""Whether the values of options are of the kinds that an attention's signature says: a word is no switch."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import AttentionError

# Beyond these nothing is a size, a factor or a share, and torch answers with its own machinery.
_LARGEST, _WIDEST = 1e30, 2**31 - 1
_WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word", type(None): "None"}
_SEVERAL = {int: "whole numbers", float: "finite numbers", str: "words"}


def must_fit(name: str, factory: Callable[..., Any], options: Mapping[str, Any], *, numbers: bool = False) -> None:
    """Refuse an option of `factory`, the attention `name`, that is of another kind than its parameter.

    Plain numbers only where they are too large, or with `numbers`: most attentions know better what they want.

    Raises:
        AttentionError: names the option, what it must be, and what was given.

    """
    hints = _hints(factory)
    for option, value in options.items():
        hint = hints.get(option, Any)
        plain = not isinstance(value, (list, tuple)) and _is_number(hint)
        if not _fits(value, hint) and (not plain or numbers or (type(value) is int and abs(value) > _WIDEST)):
            raise AttentionError(f"{option} of {name} must be {_in_words(hint)}, got {value!r:.40}")


@functools.cache
def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    return {name: p.annotation for name, p in inspect.signature(factory, eval_str=True).parameters.items()}


def _is_number(hint: Any) -> bool:
    """Whether it is one, or None."""
    kinds = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) else {hint}
    return kinds <= {int, float, type(None)}


def _fits(value: Any, hint: Any) -> bool:
    if hint in _WORDS:
        return _is_one(value, hint)
    if isinstance(hint, types.UnionType):
        return any(_fits(value, each) for each in typing.get_args(hint))
    if typing.get_origin(hint) is Sequence:
        (each,) = typing.get_args(hint)
        return isinstance(value, (list, tuple)) and all(_fits(one, each) for one in value)
    return True


def _is_one(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _WIDEST
    return isinstance(value, kind)


def _in_words(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(map(_in_words, typing.get_args(hint)))
    if typing.get_origin(hint) is Sequence:
        return f"a list of {_several(typing.get_args(hint)[0])}"
    return _WORDS.get(hint, "something else")


def _several(hint: Any) -> str:
    if typing.get_origin(hint) is Sequence:
        return f"lists of {_several(typing.get_args(hint)[0])}"
    return _SEVERAL.get(hint, "others")
