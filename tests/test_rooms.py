"""Imports go down the floors, never in a circle; what is imported is declared; the package list is the tree's."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# From the ground up. A unit is a module of attn_inject or a folder of it; one may import what stands on lower floors.
FLOORS = (
    ("errors", "recipes", "types"),
    ("files", "tracing"),
    ("attention", "cost", "sites", "zoo"),
    ("optimizing", "planning"),
    ("surgery",),
    ("reporting", "saving"),
    ("cli",),
    ("__main__",),
)
FLOOR = {unit: number for number, units in enumerate(FLOORS) for unit in units}


def sources() -> Iterator[tuple[str, Path]]:
    """Every module of the package with its dotted name, as installed."""
    for name, folder in (
        ("attn_inject", "attn_inject"),
        ("attn_inject.cli", "cli"),
        ("attn_inject.recipes", "recipes"),
    ):
        for path in sorted((ROOT / folder).rglob("*.py")):
            inner = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join([name, *(part for part in inner if part != "__init__")]), path


MODULES = dict(sources())


def unit(module: str) -> str:
    """The part of the package that a module belongs to; '' for the package itself."""
    return [*module.split("."), ""][1]


def imports(module: str, path: Path, *, on_load: bool = False) -> Iterator[str]:
    """The full names that a module imports anywhere, or only when it is loaded; never those for the type checker."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(path.read_text())
    left_out = {
        id(inner)
        for node in ast.walk(tree)
        if (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        or (on_load and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def own_module(name: str) -> str | None:
    """The module of this package that an imported name is, or lives in."""
    while name.startswith("attn_inject"):
        if name in MODULES:
            return name
        name = name.rpartition(".")[0]
    return None


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    if module == "attn_inject":
        return
    assert unit(module) in FLOOR, f"{unit(module)} stands on no floor: put it into FLOORS"
    for name in imports(module, MODULES[module]):
        target = own_module(name)
        if target in (None, "attn_inject") or unit(target) == unit(module):
            continue
        assert FLOOR[unit(target)] < FLOOR[unit(module)], f"{module} imports {target}"


def test_no_module_is_loaded_in_a_circle() -> None:
    edges = {
        module: {
            target for name in imports(module, path, on_load=True) if (target := own_module(name)) and target != module
        }
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail, module])
        if module not in done:
            for target in edges[module]:
                visit(target, (*trail, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_this_check_sees_every_form_of_import(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        "import json\nfrom . import errors\nfrom .types import Site\ndef f():\n    from ..zoo import build\n"
        "if TYPE_CHECKING:\n    from .planning import Plan\n"
    )
    assert list(imports("attn_inject.sites.x", path)) == [
        "json",
        "attn_inject.sites.errors",
        "attn_inject.sites.types.Site",
        "attn_inject.zoo.build",
    ]


def test_every_package_that_is_imported_is_declared() -> None:
    def named(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=!~\[ ]", requirement)[0].lower() for requirement in requirements}

    declared = named(PYPROJECT["project"]["dependencies"])
    for extra in PYPROJECT["project"]["optional-dependencies"].values():
        declared |= named(extra)
    # torch brings numpy where its API hands out arrays, and Triton on the platforms that have it.
    declared |= {"attn_inject", "triton"}
    used = {
        name.split(".")[0]: module
        for module, path in MODULES.items()
        for name in imports(module, path)
        if name.split(".")[0] not in sys.stdlib_module_names
    }
    assert {name: module for name, module in used.items() if name not in declared} == {}


def test_the_package_list_is_the_tree() -> None:
    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    assert listed == sorted(name for name, path in MODULES.items() if path.name == "__init__.py")


@pytest.mark.parametrize(
    "module",
    [
        "attn_inject",
        "attn_inject.errors",
        "attn_inject.types",
        "attn_inject.planning.recipe",
        "attn_inject.planning.choices",
        "attn_inject.planning.text",
        "attn_inject.saving.record",
    ],
)
def test_reading_names_and_plans_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
