"""Graphs as code that people read: one `forward` of both modes, as somebody would have written it.

C1. What `torch.fx` prints is taken apart again (`ast`): names are no longer let go one by one, and copies of a name go.
C2. A value that nobody reads any more gives its name to what is made of it, so that as little stays in memory as in
    the model's own code; tensors only, since a scripted variable has one type.
C3. Where the modes differ in a switch alone (`training=True`), it is `self.training`; where they differ in more, both
    are written down.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import fx

from .nodes import is_of_attention, value_of

_SELF = "self"


def code_of(graphs: Mapping[str, fx.Graph], parameters: str, checks: str = "") -> tuple[str, dict[str, Any]]:
    """(the source of a `forward` that runs the graph of the mode it is in, the global names that it needs).

    `parameters` are those of the function, as text; `checks` are lines that come first.
    """
    bodies: dict[str, list[ast.stmt]] = {}
    scope: dict[str, Any] = {}
    for mode, graph in graphs.items():
        made = graph.python_code(root_module=_SELF)
        body = _statements(made.src)
        taken = {name: f"{name}_{mode}" for name, value in made.globals.items() if scope.get(name, value) is not value}
        bodies[mode] = _renamed(body, taken)
        scope.update({taken.get(name, name): value for name, value in made.globals.items()})
    tensors = {
        node.name
        for graph in graphs.values()
        for node in graph.nodes
        if isinstance(value_of(node), torch.Tensor) or is_of_attention(node)
    }
    module = ast.parse(f"def forward({parameters}):\n    pass\n")
    function = module.body[0]
    assert isinstance(function, ast.FunctionDef)
    arguments = [part.arg for part in ast.walk(function.args) if isinstance(part, ast.arg)]
    free = {*scope, *arguments}
    merged = _merged(bodies)
    if merged is not None:
        lines = _reusing(merged, tensors, free, arguments)
    else:
        train, other = (_reusing(bodies[mode], tensors, free, arguments) for mode in ("train", "eval"))
        lines = [ast.If(_training(), train, other)]
    function.body = [*ast.parse(checks).body, *lines]
    return ast.unparse(ast.fix_missing_locations(module)) + "\n", scope


def _statements(source: str) -> list[ast.stmt]:
    """C1: the statements of a forward that fx printed."""
    (function,) = [part for part in ast.parse(source).body if isinstance(part, ast.FunctionDef)]
    kept: list[ast.stmt] = []
    same: dict[str, str] = {}
    for statement in function.body:
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            statement = ast.Assign([statement.target], statement.value)  # noqa: PLW2901
        if isinstance(statement, ast.Assign):
            value = statement.value
            if isinstance(value, ast.Constant) and value.value is None:
                continue
            (target,) = statement.targets
            if isinstance(value, ast.Name) and isinstance(target, ast.Name) and value.id != _SELF:
                same[target.id] = same.get(value.id, value.id)
                continue
        kept += _renamed([statement], same)
    return kept


def _renamed(statements: list[ast.stmt], names: Mapping[str, str]) -> list[ast.stmt]:
    for statement in statements:
        for part in ast.walk(statement):
            if isinstance(part, ast.Name) and part.id in names:
                part.id = names[part.id]
    return statements


def _training() -> ast.expr:
    return ast.Attribute(ast.Name(_SELF, ast.Load()), "training", ast.Load())


def _merged(bodies: Mapping[str, list[ast.stmt]]) -> list[ast.stmt] | None:
    """C3: the statements of both modes, if there is one form for them."""
    if len(bodies) == 1:
        return next(iter(bodies.values()))
    module = ast.Module(bodies["train"], [])
    return module.body if _switched(module, ast.Module(bodies["eval"], [])) else None


def _switched(train: ast.AST, other: ast.AST) -> bool:
    """Let `train` stand for both, where each differs in switches alone; whether it does."""
    if type(train) is not type(other):
        return False
    for name, ours in ast.iter_fields(train):
        theirs = getattr(other, name, None)
        mine, its = (part if isinstance(part, list) else [part] for part in (ours, theirs))
        if len(mine) != len(its):
            return False
        for index, (one, two) in enumerate(zip(mine, its, strict=True)):
            if _is_switch(one) and _is_switch(two) and one.value is not two.value:
                asked = _training() if one.value else ast.UnaryOp(ast.Not(), _training())
                if isinstance(ours, list):
                    ours[index] = asked
                else:
                    setattr(train, name, asked)
            elif isinstance(one, ast.AST) and isinstance(two, ast.AST):
                if not _switched(one, two):
                    return False
            elif type(one) is not type(two) or one != two:
                return False
    return True


def _is_switch(part: Any) -> bool:
    return isinstance(part, ast.Constant) and isinstance(part.value, bool)


def _reusing(
    statements: list[ast.stmt], tensors: set[str], free: Iterable[str], arguments: list[str]
) -> list[ast.stmt]:
    """C2."""
    last = {name: index for index, statement in enumerate(statements) for name in _read(statement)}
    # Which values share a name, the first of each first.
    heads: dict[str, str] = {name: name for name in arguments}
    chains: dict[str, list[str]] = {}
    for index, statement in enumerate(statements):
        made = _made(statement)
        if made is None:
            continue
        dying = [name for name in _read(statement) if last[name] == index and name in heads and name in tensors]
        head = heads[dying[0]] if dying and made in tensors else made
        heads[made] = head
        chains.setdefault(head, []).append(made)
    used = {*free, *(name for head, chain in chains.items() if len(chain) == 1 for name in chain)}
    names = {head: _fresh(used) if len(chain) > 1 and head not in arguments else head for head, chain in chains.items()}
    return _renamed(statements, {name: names.get(head, head) for name, head in heads.items()})


def _read(statement: ast.stmt) -> list[str]:
    """The names that a statement reads, in order."""
    read = [part.id for part in ast.walk(statement) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)]
    if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
        read.append(statement.target.id)
    return [name for name in read if name != _SELF]


def _made(statement: ast.stmt) -> str | None:
    """The one name that a statement gives a value to."""
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return None


def _fresh(used: set[str]) -> str:
    names: Callable[[int], str] = lambda number: "out" if number == 1 else f"out_{number}"  # noqa: E731
    number = 1
    while names(number) in used:
        number += 1
    used.add(names(number))
    return names(number)
