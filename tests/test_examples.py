"""The examples in the docstrings run, and every public function has one that `help` shows."""

from __future__ import annotations

import doctest
import importlib
import inspect
import io
import pydoc
from collections.abc import Iterator
from pathlib import Path

import pytest

import attn_inject
from attn_inject.attention import registry

PACKAGE = Path(attn_inject.__file__).parent
FUNCTIONS = [name for name in attn_inject.__all__ if inspect.isfunction(getattr(attn_inject, name))]


def examples() -> Iterator[doctest.DocTest]:
    """Every docstring with an example in it; modules without one are not imported."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if ">>>" in path.read_text(encoding="utf-8"):
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
            yield from doctest.DocTestFinder(exclude_empty=True).find(module)


EXAMPLES = {example.name.removeprefix("attn_inject."): example for example in examples() if example.examples}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_does_what_it_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # What an example registers is known to it alone.
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    said = io.StringIO()
    example = EXAMPLES[name]
    # The names of a new interpreter, and the one that the docstring is about: an example imports all else.
    own = name.rpartition(".")[2]
    example.globs = {"__name__": "__main__", own: example.globs[own]}
    doctest.DocTestRunner(verbose=False).run(example, out=said.write)
    assert said.getvalue() == ""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_shows_an_example(name: str) -> None:
    function = getattr(attn_inject, name)
    assert f"{function.__module__}.{name}".removeprefix("attn_inject.") in EXAMPLES
    text = pydoc.plain(pydoc.render_doc(function))
    assert ">>> from attn_inject import " in text
    assert f"{name}(" in text.split(">>> ", 1)[1]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_says_what_it_raises(name: str) -> None:
    assert "Raises:" in (inspect.getdoc(getattr(attn_inject, name)) or "")


def test_a_wrong_example_is_found() -> None:
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    said = io.StringIO()
    assert doctest.DocTestRunner(verbose=False).run(wrong, out=said.write).failed == 1
    assert "Expected:\n    3\nGot:\n    2\n" in said.getvalue()
