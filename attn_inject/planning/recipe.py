"""TOML -> `Recipe`: a published network as a model, an attention and options, with the figures it must come to.

    name = "eca-resnet50"
    title = "ECA-ResNet-50, adaptive kernel sizes"
    paper = "ECA-Net, arXiv 1910.03151, Table 3"
    model = "torchvision:resnet50"
    attention = "eca"
    expect_sites = 16
    expect_parameters = 25_557_118

Further keys: `note`, the table `model_args` (the factory's arguments), and the fields of `Choices` that differ from the
default. Keys are strict: an unknown one is an error that names the nearest (see `tables`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..attention.specs import split_spec
from ..errors import AttentionError, PlanError, resembling
from ..recipes import FOLDER
from ..types import EXISTING, INITS, KINDS, PLACEMENTS, PRESETS
from .choices import Choices
from .tables import (
    Reader,
    filled_text,
    from_toml,
    named_values,
    one_of,
    options,
    positive,
    read_table,
    tuple_of,
    whole,
)

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
        """Refuse a patched model that has not the number of sites and of parameters that the paper's has.

        Raises:
            PlanError: names the two numbers.

        """
        for what, expected, got in (
            ("sites", self.expect_sites, sites),
            ("parameters", self.expect_parameters, parameters),
        ):
            if expected != got:
                raise PlanError(f"recipe {self.name} expects {expected:,} {what}, and here are {got:,}")


def names() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(name: str | Path) -> Recipe:
    """A shipped recipe by name, or the one in a file whose name ends in .toml.

    Raises:
        PlanError: there is none of the name (with those that resemble it), or it is not a sound one.

    """
    if str(name).endswith(".toml"):
        path = Path(name)
    else:
        path = FOLDER / f"{name}.toml"
        if name not in names():
            close = resembling(str(name), names(), count=5) or names()
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
    """The recipe in TOML text.

    Raises:
        PlanError: the text is no TOML, or a key is unknown, missing or of the wrong type; names `where` and the key.

    """
    values = read_table(where, from_toml(where, content), KEYS, _REQUIRED)
    chosen = {key: values.pop(key) for key in _CHOSEN & values.keys()}
    try:
        # Apart, so that whoever follows the recipe can say one of them anew.
        chosen["attention"], given = split_spec(chosen["attention"])
    except AttentionError as error:
        raise PlanError(f"{where}: {error}") from error
    if twice := given.keys() & chosen.get("options", {}).keys():
        raise PlanError(f"{where}: {', '.join(sorted(twice))} is given in the attention's name and in its options")
    return Recipe(choices=Choices(**chosen | {"options": {**given, **chosen.get("options", {})}}), **values)


def _stage_options(where: str, value: Any) -> dict[int, dict[str, Any]]:
    table = named_values(where, value)
    if wrong := next((key for key in table if not re.fullmatch("[0-9]{1,2}", key)), None):
        raise PlanError(f"{where} must have the numbers of stages as its keys, not {wrong[:60]!r}")
    stages = {int(key): options(f"{where} {key}", item) for key, item in table.items()}
    if len(stages) < len(table):
        raise PlanError(f"{where} names a stage twice")
    return stages


_some_texts = tuple_of(filled_text, least=1)

KEYS: dict[str, Reader] = {
    "name": filled_text,
    "title": filled_text,
    "paper": filled_text,
    "note": filled_text,
    "model": filled_text,
    "model_args": options,
    "expect_sites": whole,
    "expect_parameters": whole,
    # The fields of `Choices`.
    "attention": filled_text,
    "options": options,
    "stage_options": _stage_options,
    "input_size": tuple_of(positive, least=1),
    "kinds": tuple_of(one_of(KINDS), least=1),
    "placement": one_of(PLACEMENTS),
    "include": _some_texts,
    "exclude": _some_texts,
    "stages": tuple_of(whole, least=1),
    "every": positive,
    "min_channels": positive,
    "scope": filled_text,
    "init": one_of(INITS),
    "existing": one_of(EXISTING),
    "preset": one_of(PRESETS),
}
_REQUIRED = ("name", "title", "paper", "model", "attention", "expect_sites", "expect_parameters")
# A recipe's name is its own. The new modules keep theirs.
_CHOSEN = {item.name for item in fields(Choices)} - {"name"}
