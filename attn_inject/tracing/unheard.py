"""Hooks that a graph never runs: those on a module whose children it calls, but not the module itself.

U1. Hooks that were there when the graph was made are the record's business (`prepare.not_kept`): some of them are
    followed, and their work is in the graph.
U2. Whoever hooks all that the graph calls within a module too goes through all modules, and misses a name at most.
U3. What this package itself hooks, to count and to time, is where it knows that a module may not run.
U4. They are looked for when hooks were registered since the last call, wherever that was: other calls cost one
    comparison of numbers. Under a compiler or an export nobody looks.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Iterable

import torch
from torch import fx, nn
from torch.utils.hooks import RemovableHandle

from .guards import MACHINERY
from .hook_tables import BACKWARD, FORWARD

_NAMED = 3
_OURS = f"{__name__.partition('.')[0]}."


def hooks_of(modules: Iterable[nn.Module]) -> frozenset[int]:
    """The keys of the hooks on modules, without our own; torch gives each hook a number of its own."""
    return frozenset(
        key
        for module in modules
        for name in (*FORWARD, *BACKWARD)
        for key, hook in (getattr(module, name, None) or {}).items()
        if not str(getattr(hook, "__module__", "")).startswith(_OURS)
    )


def say_unheard(graph: nn.Module) -> None:
    """Warn of hooks that do nothing; `graph` is an `InjectedModule` that is about to run."""
    if torch.compiler.is_compiling():
        return
    held = vars(graph)
    newest = RemovableHandle.next_id
    if held.get("_inj_seen") == newest:
        return
    held["_inj_seen"] = newest
    if missed := unheard(graph, held["_inj_graphs"].values(), held["_inj_hooks"]):
        names = ", ".join(missed[:_NAMED]) + (f" and {len(missed) - _NAMED} more" if len(missed) > _NAMED else "")
        warnings.warn(
            f"hooks on {names} never run: the graph calls what these modules hold, but not the modules themselves; "
            "hook a module that it calls, or use attach(), whose blocks are called",
            RuntimeWarning,
            stacklevel=_depth() + 1,
        )


def _depth() -> int:
    """How many calls up from the caller the model was called: between are its forward and torch's own functions."""
    depth, frame = 0, sys._getframe(1)
    # What was compiled from a text has no file.
    while frame.f_back is not None and frame.f_code.co_filename.startswith((*MACHINERY, "<string>")):
        depth, frame = depth + 1, frame.f_back
    return depth


def unheard(root: nn.Module, graphs: Iterable[fx.Graph], known: Collection[int]) -> list[str]:
    """The paths in `root` of modules with hooks, beside the `known` ones, that none of `graphs` runs."""
    later = {path: module for path, module in root.named_modules() if path and not hooks_of([module]) <= set(known)}
    if not later:
        return []
    targets = {str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_module"}
    called = {target: root.get_submodule(target) for target in targets}
    # A module may be called by another of its names.
    runs, hooked = set(called.values()), set(later.values())
    return [
        path
        for path, module in later.items()
        if module not in runs
        and any(target.startswith(f"{path}.") and each not in hooked for target, each in called.items())
    ]
