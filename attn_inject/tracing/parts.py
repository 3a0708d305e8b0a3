"""The patched parts of a model: the whole, or the submodules that were patched one after the other, each in its place.

Whoever does something with a patched model asks here what is patched in it, so that no part is forgotten.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from ..errors import PlanError
from ..types import Injection
from .compiled import is_compiled_wrapper
from .injected import InjectedModule


def patched_parts(model: nn.Module) -> dict[str, InjectedModule]:
    """What `inject` made of a model, by path, in the order of the tree; the whole has the empty path.

    Raises:
        PlanError: nothing in it is patched.

    """
    parts = {path: module for path, module in model.named_modules() if isinstance(module, InjectedModule)}
    if not parts:
        raise PlanError(f"{type(model).__name__} is not a model that inject() or attach() returned")
    return parts


def parts_to_change(model: nn.Module) -> dict[str, InjectedModule]:
    """The same, for who puts others in their places.

    Raises:
        PlanError: nothing is patched, or what leads to a part is compiled, and would go on with the old one's code.

    """
    parts = patched_parts(model)
    for path in parts:
        names = path.split(".") if path else []
        around = (".".join(names[:depth]) for depth in range(len(names)))
        if any(is_compiled_wrapper(model.get_submodule(outer)) for outer in around):
            raise PlanError(
                "torch.compile is around what was patched, and would go on with the code that it has made: pass the "
                "module inside (its _orig_mod), and compile what comes back"
            )
    return parts


def injected_part(patched: nn.Module) -> tuple[InjectedModule, str]:
    """The one patched part of a model, and its path, for what can be done with one only.

    Raises:
        PlanError: nothing in it is patched, or several parts are.

    """
    (path, part), *more = patched_parts(patched).items()
    if more:
        raise PlanError(f"one patched part is wanted, and {', '.join([path, *dict(more)])} are patched")
    return part, path


def full_path(part: str, path: str) -> str:
    """The path in the model of what has `path` in its patched part; the empty one is the part itself."""
    return f"{part}.{path}" if part and path else part or path


def record_of(patched: nn.Module) -> Injection:
    """The record of the part that was patched last, with those of all others.

    Raises:
        PlanError: nothing in it is patched.

    """
    parts = patched_parts(patched)
    held = vars(patched).get("injection")
    last = (held.plan.scope or "") if isinstance(held, Injection) else ""
    if last not in parts:
        last = next(reversed(parts))
    others = tuple(part.injection for path, part in parts.items() if path != last)
    return replace(parts[last].injection, others=others) if others else parts[last].injection


def put_in_place(model: nn.Module, parts: Mapping[str, nn.Module]) -> nn.Module:
    """Let each of `parts` stand at its path in `model`; returns the model, or what stands in place of the whole."""
    for path, part in parts.items():
        if not path:
            return part
        home, _, child = path.rpartition(".")
        setattr(model.get_submodule(home), child, part)
    return model


def with_parts(model: nn.Module, parts: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of `model` over the same modules, but for `parts`, and what leads to them; `model` stays as it is."""
    if "" in parts:
        return parts[""]
    copied = {"": _shell(model)}
    for path in parts:
        names = path.split(".")
        for depth in range(1, len(names)):
            inner, home = ".".join(names[:depth]), copied[".".join(names[: depth - 1])]
            if inner not in copied:
                copied[inner] = home._modules[names[depth - 1]] = _shell(home.get_submodule(names[depth - 1]))
    return put_in_place(copied[""], parts)


def _shell(module: nn.Module) -> nn.Module:
    """The same module again, whose children can be exchanged."""
    shell = copy.copy(module)
    vars(shell)["_modules"] = dict(module._modules)
    return shell
