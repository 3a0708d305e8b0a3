"""Forward hooks that only look on, told from those that are part of what a model computes.

A hook is part of it if it gives something, writes into what it is given, or sets what the code of its module reads (a
weight norm works out the weight before each call). It is asked with values; what it keeps of them is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from .caches import as_if_unheard
from .contents import changed, versions
from .hook_tables import FORWARD, hook_tables
from .keepers import Keepers
from .reach import names_in
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
def nothing_kept_by_hooks(*models: nn.Module) -> Iterator[None]:
    """Take back what the forward hooks in `models` keep of a pass, of which each may tell the others."""
    with ExitStack() as stack:
        for module in (module for model in models for module in model.modules()):
            for hook in [hook for table in hook_tables(module, FORWARD) for hook in table.values()]:
                stack.enter_context(_nothing_kept_by(hook, module, in_place=True))
        yield


def unheard(hook: Hook, given: tuple[Any, ...]) -> Any:
    """What a hook gives, called so that it keeps nothing of it. Torch's own keep what they do in the module."""
    if str(getattr(hook, "__module__", "")).startswith("torch."):
        return hook(*given)
    with _nothing_kept_by(hook, given[0]):
        return hook(*given)


def copies_of(shown: Any) -> Any:
    """What a hook is shown, in memory of its own and without a history."""
    return tree_map_only(torch.Tensor, lambda tensor: tensor.detach().clone(), shown)


class Verdict(NamedTuple):
    """What a hook does, asked aside: whether it changes something, and whether it keeps something on the model."""

    works: bool
    keeps: bool


def judged(hook: Hook, given: tuple[Any, ...], keepers: Iterable[nn.Module]) -> Verdict:
    """What a hook does with `given`, as for `changes_something`. What it keeps on `keepers` is taken back."""
    keeps: list[bool] = []
    with taken_back(keepers) as noted:
        works = changes_something(hook, given, lambda: keeps.append(noted()))
    return Verdict(works, any(keeps))


def shielded(hook: Hook, keepers: Keepers) -> Hook:
    """`hook` for runs of ours: if its first call in a mode tells that it only looks on, it is shown no other.

    One that keeps something on the alias of `keepers` is heard: the model's code may go on with what its hooks collect.
    """
    verdicts: dict[bool, Verdict] = {}
    known = keepers.of(hook)

    def shielding(*given: Any) -> Any:
        training = given[0].training
        if training not in verdicts:
            verdicts[training] = judged(hook, (given[0], *copies_of(given[1:])), known)
        if verdicts[training].keeps:
            return hook(*given)
        return unheard(hook, given) if verdicts[training].works else None

    return shielding
