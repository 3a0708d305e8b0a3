"""The public surface is what README documents, and nothing of it needs torch before it is used."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import attn_inject

README = (Path(__file__).parents[1] / "README.md").read_text()

# As the design fixes them; further keywords with defaults may follow.
SIGNATURES = {
    "inject": "model attention example_inputs input_size kinds placement include exclude stages scope init existing"
    " preset name options",
    "attach": "model attention",
    "detach": "model",
    "find_sites": "model example_inputs input_size kinds",
    "make_plan": "model attention example_inputs input_size kinds placement include exclude stages scope init existing"
    " preset name options",
    "apply_plan": "model plan",
    "report": "original patched device",
    "verify": "original patched",
    "fold": "patched data tolerance",
    "choose": "model attention data loss budget",
    "gates": "patched data",
    "optimize": "patched example_inputs",
    "optimize_training": "patched example_inputs",
    "save": "patched path",
    "load": "path model",
    "remove": "patched",
    "sweep": "models attentions out train seeds processes address",
    "attention_parameters": "model",
    "attention_state_dict": "model",
    "freeze_original": "model",
    "register_attention": "name factory",
    "register_timm_model": "model attention name",
    "register_torchvision_model": "model attention name",
}


def test_the_documented_names_are_the_public_ones() -> None:
    section = README.split("## Python")[1].split("\n## ")[0]
    documented = set(re.findall(r"^\| `(\w+)", section, flags=re.MULTILINE))
    assert documented == set(attn_inject.__all__)


@pytest.mark.parametrize("name", attn_inject.__all__)
def test_every_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(attn_inject, name)
    assert inspect.getdoc(value)
    assert value.__name__ == name


@pytest.mark.parametrize("name", SIGNATURES)
def test_arguments_keep_their_names(name: str) -> None:
    parameters = inspect.signature(getattr(attn_inject, name)).parameters
    assert [wanted for wanted in SIGNATURES[name].split() if wanted not in parameters] == []


@pytest.mark.parametrize("name", attn_inject.__all__)
def test_no_module_hides_a_public_function(name: str) -> None:
    # `import attn_inject.report` would replace the function of that name in the package.
    package = Path(attn_inject.__file__).parent
    assert not (package / f"{name}.py").exists()
    assert not (package / name).is_dir()


def test_the_type_checker_sees_every_name_where_it_lives() -> None:
    tree = ast.parse(Path(attn_inject.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    seen = {
        # A name that is imported as itself is an export, and others are not.
        alias.asname: statement.module
        for statement in tree.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
        if alias.asname == alias.name
    }
    assert seen == attn_inject._HOME


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'injekt'"):
        attn_inject.injekt  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, attn_inject; dir(attn_inject); attn_inject.Plan; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_nothing_named_cli_or_recipes_is_installed_at_the_top() -> None:
    code = "import importlib.util as u; print([n for n in ('cli', 'recipes') if u.find_spec(n)])"
    run = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
