"""Standard output and standard error, whatever signs they know and however they end."""

from __future__ import annotations

import codecs
import io
import os
import sys

# Of one width with what they stand for: tables keep their columns.
_SPELLED = str.maketrans({"×": "x", "…": "-", "–": "-", "→": ">", "µ": "u", "·": ".", "±": "+", "★": "*"})
_HANDLER = "attn_inject.spelled"


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_SPELLED)
    return "".join(sign if sign.isascii() else "?" for sign in text), error.end


def take_any_sign() -> None:
    """Let a sign that the encoding of a terminal lacks be one that looks like it, not the end of the program."""
    codecs.register_error(_HANDLER, _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def print_no_more() -> None:
    """Drop what standard output still holds: Python would flush it at the end, and fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
