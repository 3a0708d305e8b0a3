"""ARCHITECTURE.md's rooms are the tree's; imports go down its floors, never in a circle; packages are declared."""

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

ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()

# The table of rooms in ARCHITECTURE.md: a room may import what stands on lower floors.
FLOOR = {
    name.removesuffix("/").removesuffix(".py"): int(floor)
    for floor, name in re.findall(r"^\| (\d+) \| `([\w./*]+)` \|", ARCHITECTURE, flags=re.MULTILINE)
}
ARROWS = 82


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
    if module.startswith("attn_inject.recipes."):
        return "recipes/*"  # scripts, which use the whole package
    return [*module.split("."), ""][1]


def imports(module: str, path: Path) -> Iterator[str]:
    """The full names that a module imports anywhere, those for the type checker too."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
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


def edges() -> dict[str, set[str]]:
    """What every module imports of this package, wherever in it the import stands."""
    return {
        module: {target for name in imports(module, path) if (target := own_module(name)) not in (None, module)}
        for module, path in MODULES.items()
    }


EDGES = edges()


def test_the_rooms_of_the_table_are_those_of_the_tree() -> None:
    assert set(FLOOR) == {unit(module) for module in MODULES} - {""}


def test_nothing_but_these_stands_at_the_root() -> None:
    files = {path.name for path in (ROOT / "attn_inject").iterdir() if path.is_file()}
    assert files == {"__init__.py", "__init__.pyi", "__main__.py", "errors.py", "types.py", "py.typed"}


@pytest.mark.parametrize("module", [module for module in MODULES if module != "attn_inject"])
def test_imports_go_down_only(module: str) -> None:
    for target in EDGES[module] - {"attn_inject"}:
        if unit(target) != unit(module):
            assert FLOOR[unit(target)] < FLOOR[unit(module)], f"{module} imports {target}"


def test_no_file_imports_in_a_circle() -> None:
    """Also not inside a room, nor by an import that stands in a function."""
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail, module])
        if module not in done:
            for target in EDGES[module]:
                visit(target, (*trail, module))
            done.add(module)

    for module in EDGES:
        visit(module, ())


def test_the_rooms_know_few_others() -> None:
    arrows = {
        (unit(module), unit(target))
        for module, targets in EDGES.items()
        for target in targets
        if "" not in (unit(module), unit(target)) and unit(module) != unit(target)
    }
    assert len(arrows) < ARROWS, sorted(arrows)


@pytest.mark.parametrize("room", sorted({path.parent.name for path in MODULES.values()} - {"attn_inject", "views"}))
def test_every_room_says_what_it_is(room: str) -> None:
    module = f"attn_inject.{room}"
    assert ast.get_docstring(ast.parse(MODULES[module].read_text()))


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
        "attn_inject.sites.planning.Plan",
    ]


def test_every_package_that_is_imported_is_declared() -> None:
    def named(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=!~\[ ]", requirement)[0].lower() for requirement in requirements}

    declared = named(PYPROJECT["project"]["dependencies"])
    for extra in PYPROJECT["project"]["optional-dependencies"].values():
        declared |= named(extra)
    # torch brings numpy where its API hands out arrays, and Triton on the platforms that have it.
    declared |= {"attn_inject", "triton"}
    # The packages that scikit-learn and pillow install.
    installed = {"scikit-learn": "sklearn", "pillow": "PIL"}
    declared |= {package for name, package in installed.items() if name in declared}
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
