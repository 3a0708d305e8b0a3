"""Everything attn-inject raises on purpose, and the hint that goes with an unknown word.

A user's mistake is an `AttnInjectError` whose message is one clear sentence: what is wrong and what to do. The command
line prints it on stderr and exits with code 2. Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable
from pathlib import Path


class AttnInjectError(Exception):
    """Base of every error that a user can cause.

    >>> from attn_inject import AttnInjectError, inject
    >>> from attn_inject.zoo.cifar import models
    >>> try:
    ...     inject(models()["resnet20"](), "se", reductoin=4)
    ... except AttnInjectError as error:
    ...     print(str(error).split(";")[0])
    se has no option 'reductoin' (did you mean reduction?)
    """


class SourceError(AttnInjectError):
    """A model source that cannot be found, imported or built, or weights that do not fit it."""


class TraceError(AttnInjectError):
    """A model whose graph cannot be read."""


class GuardError(AttnInjectError, RuntimeError):
    """An input on which the model's own code decides otherwise than it did when it was traced."""


class ArgumentError(GuardError):
    """An argument other than the one that the graph was made with."""


class AttentionError(AttnInjectError):
    """An unknown attention, or settings that it cannot work with."""


class PlanError(AttnInjectError):
    """A plan that is malformed, empty, or does not fit the model it is applied to."""


class RewriteError(AttnInjectError):
    """An edit that cannot be made, or one whose result failed verification."""


class CheckpointError(AttnInjectError):
    """A file that cannot be written, or that is not a sound checkpoint."""


ONNX_NEEDS = "writing .onnx needs the packages onnx and onnxscript: pip install 'attn-inject[onnx]'"


def must_be_whole(label: str, value: object, least: int = 1, error: type[AttnInjectError] = AttnInjectError) -> int:
    """`value`, where it is a whole number of at least `least`; else an `error` that says so with what it is called.

    >>> from attn_inject.errors import must_be_whole
    >>> must_be_whole("batches", 3)
    3
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise error(f"{label} must be a whole number from {least}, got {value!r}")
    return value


def must_be_number(
    label: str, value: object, least: float | None = None, error: type[AttnInjectError] = AttnInjectError
) -> float:
    """`value` as a finite number above 0 (from `least` on, where one is given); else an `error` that says so.

    >>> from attn_inject.errors import must_be_number
    >>> must_be_number("lr", 1)
    1.0
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or (value <= 0 if least is None else value < least):  # type: ignore[operator]
        wanted = "above 0" if least is None else f"from {least:g}"
        raise error(f"{label} must be a number {wanted}, got {value!r}")
    return float(value)  # type: ignore[arg-type]


def must_be(
    label: str,
    value: object,
    kinds: type | tuple[type, ...],
    wanted: str,
    error: type[AttnInjectError] = AttnInjectError,
) -> None:
    """Raise an `error` that says what is `wanted`, where `value` is of none of the `kinds`.

    >>> from attn_inject.errors import must_be
    >>> must_be("path", "model.pt", str, "a path")
    """
    if not isinstance(value, kinds):
        raise error(f"{label} must be {wanted}, got {value!r}")


def must_be_path(label: str, value: object, error: type[AttnInjectError] = AttnInjectError) -> Path:
    """`value` as a path, where it is one or its text; else an `error` that says so with what it is called.

    >>> from attn_inject.errors import must_be_path
    >>> must_be_path("the file", "model.pt").suffix
    '.pt'
    """
    if not isinstance(value, (str, os.PathLike)):
        raise error(f"{label} must be a path, got {value!r}")
    return Path(value)


def first_line(error: BaseException) -> str:
    """What an error says, in one line: the first of its lines, or, where it says nothing, its class.

    >>> from attn_inject.errors import first_line
    >>> first_line(ValueError("too small")), first_line(KeyError())
    ('too small', 'KeyError')
    """
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def nearest(word: str, known: Iterable[str], *, count: int = 1) -> str:
    """What a message adds when `word` is unknown: ` (did you mean se?)`, or nothing where no known word resembles it.

    >>> nearest("see", ["se", "eca", "psa"])
    ' (did you mean se?)'
    >>> nearest("something else", ["se", "eca", "psa"])
    ''
    """
    close = resembling(word, known, count=count)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def resembling(word: str, known: Iterable[str], *, count: int) -> list[str]:
    """The at most `count` known words that `word` is most likely a slip of, best first."""
    words = list(known)
    # Small or capital letters are the commonest slip.
    same = [each for each in words if each.lower() == word.lower()]
    # The comparison takes time that grows with the product of the lengths, and a word may come from a file.
    return same[:count] or difflib.get_close_matches(word[:60], words, count)
