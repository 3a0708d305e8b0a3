"""What tells functions and objects of one name apart: their code, settings and what is bound to them; nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attn_inject.files.described import described


def _bound(value: Any) -> Callable[[], Any]:
    return lambda: value


def _made(body: str) -> type:
    scope: dict[str, Any] = {}
    exec(f"class Gate:\n    def forward(self, x):\n        return {body}", scope)
    made: type = scope["Gate"]
    return made


def _defaulted(value: int) -> Callable[..., int]:
    def given(x: int = value, *, y: int = value) -> int:
        return x + y

    return given


PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "code": (lambda: lambda x: x + 1, lambda: lambda x: x + 2),
    "code within": (lambda: lambda xs: [x + 1 for x in xs], lambda: lambda xs: [x + 2 for x in xs]),
    "bound": (lambda: _bound(1), lambda: _bound(2)),
    "defaults": (lambda: _defaulted(1), lambda: _defaulted(2)),
    "partial": (lambda: partial(F.cross_entropy, label_smoothing=0.1), lambda: partial(F.cross_entropy)),
    "settings": (nn.CrossEntropyLoss, lambda: nn.CrossEntropyLoss(label_smoothing=0.5)),
    "weights": (
        lambda: nn.CrossEntropyLoss(torch.tensor([1.0, 2.0])),
        lambda: nn.CrossEntropyLoss(torch.tensor([1.0, 3.0])),
    ),
    "class": (lambda: _made("x"), lambda: _made("x * 2")),
    "name": (lambda: "se", lambda: "eca"),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_what_differs_is_told_and_what_is_the_same_is_the_same(pair: str) -> None:
    one, other = PAIRS[pair]
    assert described(one()) == described(one())
    assert described(other()) == described(other())
    assert described(one()) != described(other())


def test_a_file_is_what_it_says_now(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("class Gate: ...")
    before = described(f"{file}:Gate")
    assert described(f"{file}:Gate") == before
    file.write_text("class Gate: pass")
    assert described(f"{file}:Gate") != before


def test_an_empty_cell_and_what_cannot_be_shown_are_no_matter() -> None:
    def outer(*, binds: bool = False) -> Callable[[], Any]:
        if binds:
            later = 1
        return lambda: later

    assert described(outer()) == described(outer())
    assert described(_bound(object())) == described(_bound(object()))


def test_another_process_says_the_same() -> None:
    code = (
        "import torch; from functools import partial; from torch.nn import functional as F\n"
        "from attn_inject.files.described import described\n"
        "print(described(partial(F.cross_entropy, label_smoothing=0.1)) + described(torch.nn.CrossEntropyLoss()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    ours = described(partial(F.cross_entropy, label_smoothing=0.1)) + described(nn.CrossEntropyLoss())
    assert ran.stdout == f"{ours}\n"
