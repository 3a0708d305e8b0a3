"""Lines of the model's code as people are told of them: the statement, or its head, that holds the line, in one line.

What goes over several lines runs in any of them, and its last line alone says little.
"""

from __future__ import annotations

import linecache
import tokenize
from functools import lru_cache

# Of what is longer, a table of functions perhaps, the line that runs says more.
_LONGEST = 160
_BEFORE = (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT)


def quoted(path: str, number: int) -> tuple[int, str]:
    """(the line of the file at which the statement begins, its text); no text if the file cannot be read."""
    lines = linecache.getlines(path)
    line = lines[number - 1] if 0 < number <= len(lines) else ""
    return _written_over_lines(tuple(lines)).get(number, (number, line.strip()))


@lru_cache(maxsize=64)
def _written_over_lines(lines: tuple[str, ...]) -> dict[int, tuple[int, str]]:
    """By line, the first line and the text of what is written over several lines there, without its comments."""
    found: dict[int, tuple[int, str]] = {}
    first, ends = 0, {}
    try:
        for token in tokenize.generate_tokens(iter(lines).__next__):
            if token.type == tokenize.COMMENT:
                ends[token.start[0]] = token.start[1]
            if not first and token.type not in _BEFORE:
                first = token.start[0]
            if token.type == tokenize.NEWLINE:
                numbers = range(first, token.start[0] + 1)
                text = " ".join(lines[number - 1][: ends.get(number)].strip() for number in numbers)
                if len(numbers) > 1 and len(text) <= _LONGEST:
                    found.update(dict.fromkeys(numbers, (first, text)))
                first = 0
    except (tokenize.TokenError, SyntaxError):
        pass  # What comes before is Python all the same.
    return found
