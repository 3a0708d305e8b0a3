"""TOML -> `Recipe`: a published network as a model, an attention and options, with the figures it must come to.

    name = "eca-resnet50"
    title = "ECA-ResNet-50, adaptive kernel sizes"
    paper = "ECA-Net, arXiv 1910.03151, Table 3"
    model = "torchvision:resnet50"
    attention = "eca"
    expect_sites = 16
    expect_parameters = 25_557_118

Further keys: `note`, the tables `model_args` (the factory's arguments), `options` (the attention's) and `stage_options`
(the attention's, per stage), and whatever of `SETTINGS` differs from the default. Keys are strict: an unknown one is an
error that names the nearest.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import recipes as shipped
from ..errors import PlanError
from ..types import EXISTING, INITS, KINDS, PLACEMENTS, PRESETS
from .choices import Choices

MAX_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Recipe:
    """One published network: what goes where (`choices`) in which model, and what the result must come to."""

    name: str
    title: str
    paper: str
    model: str
    choices: Choices
    expect_sites: int
    expect_parameters: int
    model_args: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def must_match(self, sites: int, parameters: int) -> None:
        """Raise PlanError unless a patched model has the number of sites and of parameters that the paper's has."""
        for what, expected, got in (
            ("sites", self.expect_sites, sites),
            ("parameters", self.expect_parameters, parameters),
        ):
            if expected != got:
                raise PlanError(f"recipe {self.name} expects {expected:,} {what}, and here are {got:,}")


def names() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def load_recipe(name: str | Path) -> Recipe:
    """A shipped recipe by name, or the one in a file whose name ends in .toml; PlanError when it is not a sound one."""
    if str(name).endswith(".toml"):
        path = Path(name)
    else:
        path = _folder() / f"{name}.toml"
        if name not in names():
            close = difflib.get_close_matches(str(name), names(), n=5) or names()
            raise PlanError(f"no recipe '{name}': there are {', '.join(close)}")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise PlanError(f"the recipe {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > MAX_BYTES:
        raise PlanError(f"the recipe {path} is longer than {MAX_BYTES:,} bytes")
    return parse_recipe(content, str(path))


def parse_recipe(content: bytes, where: str = "the recipe") -> Recipe:
    """The recipe in TOML text; PlanError, naming `where`, when a key is unknown, missing or of the wrong type."""
    try:
        table = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{where} is not TOML: {' '.join(str(error).split())[:200]}") from error
    _check_keys(table, where)
    for key, value in table.items():
        expected, sound = _KEYS[key]
        if not sound(value):
            raise PlanError(f"{where}: {key} must be {expected}")
    chosen = {key: table.pop(key) for key in ("attention", "options", *SETTINGS) if key in table}
    if "stage_options" in chosen:
        chosen["stage_options"] = {int(stage): options for stage, options in chosen["stage_options"].items()}
    return Recipe(choices=Choices(**chosen), **table)


def _check_keys(table: Mapping[str, Any], where: str) -> None:
    for key in table:
        if key not in _KEYS:
            close = difflib.get_close_matches(key[:60], _KEYS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"the keys are {', '.join(_KEYS)}"
            raise PlanError(f"{where} has an unknown key {key[:60]!r}: {hint}")
    missing = [key for key in _REQUIRED if key not in table]
    if missing:
        raise PlanError(f"{where} lacks {', '.join(missing)}")


def _folder() -> Path:
    return Path(shipped.__path__[0])


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_positive(value: Any) -> bool:
    return _is_count(value) and value > 0


def _is_value(value: Any, depth: int = 8) -> bool:
    """What an option may be: text, a finite number, a truth value, or a list or table of such, to a depth."""
    if isinstance(value, dict):
        return depth > 0 and all(_is_value(v, depth - 1) for v in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_is_value(v, depth - 1) for v in value)
    return isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(key.isidentifier() for key in value) and _is_value(value)


def _is_stage_table(value: Any) -> bool:
    return isinstance(value, dict) and all(re.fullmatch("[0-9]{1,2}", k) and _is_table(v) for k, v in value.items())


def _list_of(sound: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) > 0 and all(sound(v) for v in value)


def _one_of(words: tuple[str, ...]) -> tuple[str, Callable[[Any], bool]]:
    return f"one of {', '.join(words)}", lambda value: isinstance(value, str) and value in words


_Rule = tuple[str, Callable[[Any], bool]]
_TEXT: _Rule = ("text", _is_text)
_TEXTS: _Rule = ("a list of texts", _list_of(_is_text))
_TABLE: _Rule = ("a table of names and plain values", _is_table)
_POSITIVE: _Rule = ("a whole number above zero", _is_positive)

_REQUIRED: dict[str, _Rule] = {
    "name": _TEXT,
    "title": _TEXT,
    "paper": _TEXT,
    "model": _TEXT,
    "attention": _TEXT,
    "expect_sites": ("a whole number", _is_count),
    "expect_parameters": ("a whole number", _is_count),
}

SETTINGS: dict[str, _Rule] = {
    "input_size": ("a list of whole numbers", _list_of(_is_positive)),
    "kinds": (f"a list of {', '.join(KINDS)}", _list_of(_one_of(KINDS)[1])),
    "placement": _one_of(PLACEMENTS),
    "include": _TEXTS,
    "exclude": _TEXTS,
    "stages": ("a list of whole numbers", _list_of(_is_count)),
    "every": _POSITIVE,
    "min_channels": _POSITIVE,
    "stage_options": ("a table of tables, one per stage number", _is_stage_table),
    "scope": _TEXT,
    "init": _one_of(INITS),
    "existing": _one_of(EXISTING),
    "preset": _one_of(PRESETS),
}

_KEYS: dict[str, _Rule] = {
    **_REQUIRED,
    "note": _TEXT,
    "model_args": _TABLE,
    "options": _TABLE,
    **SETTINGS,
}
