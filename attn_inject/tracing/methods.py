"""Which methods of its class a graph can answer: those whose code reaches the part's modules by its forward alone.

A model may call a part by another name than `forward`: `def features(self, x, **more): return self(x)`. Bound to the
graph, such a method runs the graph, with the attention. Its code is read, not run:

K1. What it takes from `self` are settings, properties, `training`, the forward, and methods of which the same is true.
    No module, parameter or buffer, in no structure either, and no method of `nn.Module` that would give modules; those
    that give tensors and their names (`named_parameters`) are the patched model's, which has them all.
K2. `self` is called, or asked for an attribute; it is given to nobody else.
K3. Nothing of `self` is set or changed: the graph was made with what was there.
K4. The code is there to read, and what it is called by is this code: a decorator may mark it (`torch.jit.ignore`), but
    not wrap it.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable
from functools import cache, cached_property
from types import FunctionType
from typing import Any

from torch import fx, nn
from torch.utils._pytree import tree_iter

_FREE = ("forward", "training", "parameters", "named_parameters", "buffers", "named_buffers", "state_dict")
_MISSING = object()


def methods_for_graph(face: type, module: nn.Module) -> tuple[str, ...]:
    """The names of the methods of `face` that a graph made of `module` can run, and of those that they call, sorted.

    >>> from torch import nn
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv = nn.Conv2d(3, 8, 1)
    ...     def forward(self, x, scale=1.0): return self.conv(x) * scale
    ...     def features(self, x): return self._run(x, scale=2.0)
    ...     def _run(self, *args, **kwargs): return self(*args, **kwargs)
    ...     def stem(self, x): return self.conv(x)
    >>> methods_for_graph(Net, Net())
    ('_run', 'features')
    """
    if issubclass(face, fx.GraphModule):
        return ()
    found: set[str] = set()
    for name in dir(face):
        if not name.startswith("_") and not hasattr(fx.GraphModule, name):
            found |= _needed(face, module, name, frozenset()) or set()
    return tuple(sorted(found))


def bind(module: nn.Module, face: type, names: Iterable[str]) -> None:
    """Give the module's class, which is its own, the methods of `face` with these names."""
    for name in names:
        method = inspect.getattr_static(face, name, None)
        if isinstance(method, FunctionType):
            setattr(type(module), name, method)


def _needed(face: type, module: nn.Module, name: str, callers: frozenset[str]) -> set[str] | None:
    """The method at `name` and all that it calls; None if one of them cannot be run on a graph."""
    method = inspect.getattr_static(face, name, None)
    if not isinstance(method, FunctionType) or hasattr(fx.GraphModule, name):
        return None
    taken = _taken(method)
    if taken is None:
        return None
    found = {name}
    for attribute in taken:
        kind = inspect.getattr_static(face, attribute, None)
        if attribute in (*_FREE, name) or attribute in callers or isinstance(kind, (property, cached_property)):
            continue
        if isinstance(kind, FunctionType):
            more = _needed(face, module, attribute, callers | {name})
            if more is None:
                return None
            found |= more
        elif hasattr(nn.Module, attribute) or not _is_setting(module, attribute, kind):
            return None
    return found


def _is_setting(module: nn.Module, name: str, of_class: Any) -> bool:
    """Whether it is there, and neither a module, parameter or buffer nor something that holds a module."""
    if any(name in vars(module)[table] for table in ("_modules", "_parameters", "_buffers")):
        return False
    value = vars(module).get(name, _MISSING if of_class is None else of_class)
    return not any(part is _MISSING or isinstance(part, nn.Module) or callable(part) for part in tree_iter(value))


@cache
def _taken(method: FunctionType) -> frozenset[str] | None:
    """The attributes that a method takes from its `self`; None for what K2 to K4 rule out."""
    parameters = list(inspect.signature(method).parameters)
    if not parameters or hasattr(method, "__wrapped__"):
        return None
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    except (OSError, TypeError, SyntaxError):
        return None
    (definition,) = tree.body
    # A wrapper's code would be read in the place of what it wraps.
    if not isinstance(definition, ast.FunctionDef):
        return None
    parents = {child: parent for parent in ast.walk(definition) for child in ast.iter_child_nodes(parent)}
    taken: set[str] = set()
    for node in ast.walk(definition):
        if isinstance(node, ast.Name) and node.id in ("super", "__class__", "vars", "locals"):
            return None
        if not isinstance(node, ast.Name) or node.id != parameters[0]:
            continue
        parent = parents[node]
        if isinstance(parent, ast.Call) and parent.func is node:
            continue
        if not isinstance(parent, ast.Attribute) or _may_change(parent, parents):
            return None
        taken.add(parent.attr)
    return frozenset(taken)


def _may_change(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """K3, for an attribute of `self`: set or deleted, in it or below, or a method called of what it holds."""
    depth = 0
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        if not isinstance(node.ctx, ast.Load):
            return True
        parent = parents[node]
        if depth and isinstance(parent, ast.Call) and parent.func is node:
            return True
        if not isinstance(parent, (ast.Attribute, ast.Subscript)) or parent.value is not node:
            break
        node, depth = parent, depth + 1
    return False
