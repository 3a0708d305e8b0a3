"""Forward hooks that only look on, told from those that are part of what a model computes.

A hook is part of it if it gives something, writes into what it is given, or sets what the code of its module reads (a
weight norm works out the weight before each call). It is asked with values; what it keeps of them is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FunctionType, MethodType
from typing import Any
from weakref import ref

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from .caches import as_if_unheard
from .contents import changed, versions
from .hook_tables import FORWARD, hook_tables
from .reach import TABLES, contents_of, is_helper, names_in
from .restoring import private_tensors, taken_back

Hook = Callable[..., Any]


def changes_something(hook: Hook, given: tuple[Any, ...], kept: Callable[[], None] = lambda: None) -> bool:
    """Whether a hook changes something, asked aside.

    `given` are its module, and in the places of arguments, and perhaps results, values that nobody else has. `kept` is
    called before what it keeps is taken back.
    """
    module: nn.Module = given[0]
    held = dict(vars(module))
    try:
        with private_tensors(module, "_parameters", "_buffers"):
            return _changes(hook, given, kept)
    finally:
        vars(module).clear()
        vars(module).update(held)


def _changes(hook: Hook, given: tuple[Any, ...], kept: Callable[[], None]) -> bool:
    """Whether a hook changes something. One that does not run on what it is given changes nothing."""
    module: nn.Module = given[0]
    own = [tensor for table in (module._parameters, module._buffers) for tensor in table.values()]
    before, held = versions((given[1:], own)), _held(module)
    with _nothing_kept_by(hook, module, in_place=True):
        try:
            result = hook(*given)
        except Exception:
            # It may want what a run of the whole has shown it before, or numbers of another kind.
            return False
        kept()
    named = {name for name, value in _held(module).items() if value is not held.get(name)} & _names_of(type(module))
    return result is not None or bool(named or changed(before))


@contextmanager
def _nothing_kept_by(hook: Hook, module: nn.Module, *, in_place: bool = False) -> Iterator[None]:
    """Take back what the hook, or whose method it is, keeps of what it is shown.

    One that is followed may run parts of the model, whose statistics are not its own: `in_place` is for others.
    """
    owner: Any = getattr(hook, "__self__", None)
    held = dict(vars(owner)) if isinstance(owner, nn.Module) and owner is not module else {}
    try:
        with as_if_unheard(module, [hook, owner, *held.values()], in_place=in_place):
            yield
    finally:
        if held:
            vars(owner).clear()
            vars(owner).update(held)


def _held(module: nn.Module) -> dict[str, Any]:
    return {**vars(module), **module._parameters, **module._buffers}


def _names_of(kind: type) -> set[str]:
    """The names that the code of a class speaks of, beyond what every module's does."""
    bases = kind.__mro__[: kind.__mro__.index(nn.Module)]
    functions = [value for base in bases for value in vars(base).values()]
    codes = [code for value in functions if (code := getattr(value, "__code__", None)) is not None]
    return {name for code in codes for name in names_in(code)}


@contextmanager
def nothing_kept_by_hooks(model: nn.Module) -> Iterator[None]:
    """Take back what the forward hooks in `model` keep of a pass, of which each may tell the others."""
    with ExitStack() as stack:
        for module in model.modules():
            for hook in [hook for table in hook_tables(module, FORWARD) for hook in table.values()]:
                stack.enter_context(_nothing_kept_by(hook, module, in_place=True))
        yield


def unheard(hook: Hook, given: tuple[Any, ...]) -> Any:
    """What a hook gives, called so that it keeps nothing of it. Torch's own keep what they do in the module."""
    if str(getattr(hook, "__module__", "")).startswith("torch."):
        return hook(*given)
    with _nothing_kept_by(hook, given[0]):
        return hook(*given)


def _keepers(hook: Hook, model: nn.Module) -> list[nn.Module]:
    """The modules of `model` on which a hook may keep something: those that it reaches, or whose tables."""
    reached = list(_reached_by(hook, set()))
    tables = {id(part) for part in reached if not isinstance(part, nn.Module)}
    own = {id(part) for part in reached if isinstance(part, nn.Module)}
    if not (tables or own):
        return []
    return [
        module
        for module in model.modules()
        if id(module) in own or any(id(value) in tables for value in vars(module).values())
    ]


def _reached_by(value: Any, seen: set[int]) -> Iterator[Any]:
    """The modules and tables that a function has in its hands."""
    if id(value) in seen:
        return
    seen.add(id(value))
    parts: list[Any] = []
    if isinstance(value, nn.Module) or type(value) in TABLES:
        yield value
    elif isinstance(value, partial):
        parts = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, MethodType):
        parts = [value.__self__, value.__func__]
    elif isinstance(value, FunctionType):
        cells = [part for cell in value.__closure__ or () for part in contents_of(cell).values()]
        parts = [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    elif isinstance(value, ref):
        parts = [value()]
    elif is_helper(value):
        parts = list(vars(value).values())
    for part in parts:
        yield from _reached_by(part, seen)


def copies_of(shown: Any) -> Any:
    """What a hook is shown, in memory of its own and without a history."""
    return tree_map_only(torch.Tensor, lambda tensor: tensor.detach().clone(), shown)


def shielded(hook: Hook, model: nn.Module) -> Hook:
    """`hook` for runs of ours: if its first call in a mode tells that it only looks on, it is shown no other.

    One that keeps something on `model`, an alias, is heard: the model's code may go on with what its hooks collect.
    """
    works: dict[bool, bool] = {}
    keeps: dict[bool, bool] = {}
    keepers = _keepers(hook, model)

    def shielding(*given: Any) -> Any:
        training = given[0].training
        if training not in works:
            with taken_back(keepers) as noted:
                works[training] = changes_something(
                    hook, (given[0], *copies_of(given[1:])), lambda: keeps.update({training: noted()})
                )
        if keeps.get(training):
            return hook(*given)
        return unheard(hook, given) if works[training] else None

    return shielding
