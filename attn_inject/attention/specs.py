"""An attention with its options in one word: `se:reduction=4`, `cbam:reduction=8,kernel=7`, `my.py:Scale:start=0.5`.

    spec    = name [":" option ("," option)*]
    option  = key "=" value

The name is any that an attention has, and may have colons in it: the options start at the first colon that a key and
an equals sign follow. A value is what a Python literal says, `true` or `false`, or else its own text. It goes on to the
next comma, outside brackets and quotes, that a key and an equals sign follow: `kernels=3,5,7,9` is a list, and so is
`kernels=[3,5,7,9]`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from ..errors import AttentionError

_KEY = r"\s*[^\W\d]\w*\s*=(?!=)"
_OPTIONS = re.compile(rf":(?={_KEY})")
_NEXT = re.compile(_KEY)


def split_spec(text: str) -> tuple[str, dict[str, Any]]:
    """(the attention's name, its options) of a spec; a name without options is one too.

    >>> from attn_inject.attention.specs import split_spec
    >>> split_spec("se:reduction=4,gate=hardsigmoid")
    ('se', {'reduction': 4, 'gate': 'hardsigmoid'})
    >>> split_spec("psa:kernels=3,5,groups=[1, 4]")
    ('psa', {'kernels': (3, 5), 'groups': [1, 4]})
    >>> split_spec("timm:cbam:rd_ratio=0.25"), split_spec("package.module:Class")
    (('timm:cbam', {'rd_ratio': 0.25}), ('package.module:Class', {}))

    Raises:
        AttentionError: an option stands in it twice.

    """
    name, *rest = _OPTIONS.split(text, maxsplit=1)
    options: dict[str, Any] = {}
    for part in _parts(rest[0]) if rest else ():
        key, _, value = part.partition("=")
        if key.strip() in options:
            raise AttentionError(f"{text} gives {key.strip()} twice")
        options[key.strip()] = literal(value.strip())
    return name.strip(), options


def literal(text: str) -> Any:
    """The Python literal that `text` spells, `true` and `false` too, or the text itself.

    >>> from attn_inject.attention.specs import literal
    >>> literal("4"), literal("3,5"), literal("true"), literal("hardsigmoid")
    (4, (3, 5), True, 'hardsigmoid')
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _parts(text: str) -> Iterator[str]:
    """`key=value` by `key=value`."""
    depth, quote, start = 0, "", 0
    for index, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0 and _NEXT.match(text, index + 1):
            yield text[start:index]
            start = index + 1
    yield text[start:]
