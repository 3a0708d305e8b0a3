"""Which statement of a file a line belongs to, and how it is quoted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from attn_inject import find_sites
from attn_inject.tracing.quoting import quoted

CODE = """\
def f(x, h, w):
    assert (
        h % 2 == 0
        and w % 2 == 0
    ), "odd"
    if h > w:
        # a comment
        return x
    elif (h < w and
          h):
        y = g(x,
              lambda a:
              a)
    with a as b, \\
            c as d:
        for i in range(
            h
        ):
            pass
    match h:
        case 1 if w:
            pass
    return y
"""


@pytest.mark.parametrize(
    ("line", "first", "text"),
    [
        (3, 2, 'assert ( h % 2 == 0 and w % 2 == 0 ), "odd"'),
        (5, 2, 'assert ( h % 2 == 0 and w % 2 == 0 ), "odd"'),
        (6, 6, "if h > w:"),
        (8, 8, "return x"),
        (10, 9, "elif (h < w and h):"),
        (12, 11, "y = g(x, lambda a: a)"),
        (15, 14, "with a as b, \\ c as d:"),
        (17, 16, "for i in range( h ):"),
        (21, 21, "case 1 if w:"),
        (23, 23, "return y"),
    ],
)
def test_the_statement_of_a_line(tmp_path: Path, line: int, first: int, text: str) -> None:
    file = tmp_path / "net.py"
    file.write_text(CODE)
    assert quoted(str(file), line) == (first, text)


def test_what_is_no_python_or_no_file(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("a = 1\nif (\n")
    assert quoted(str(file), 2) == (2, "if (")
    assert quoted(str(tmp_path / "gone.py"), 7) == (7, "")


def test_of_a_long_statement_the_line_alone(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("x = [\n" + "    'some words',\n" * 40 + "]\n")
    assert quoted(str(file), 20) == (20, "'some words',")


class Even(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if (
            x.shape[2] % 2 == 0  # even
            and x.shape[3] > 7
        ):
            x = x * 2
        return x + self.b(torch.relu(self.a(x)))


def test_a_guard_names_its_whole_statement() -> None:
    guards = find_sites(Even(), input_size=(4, 8, 8)).guards
    assert guards
    for guard in guards:
        assert guard.line.endswith("`if ( x.shape[2] % 2 == 0 and x.shape[3] > 7 ):`")
