"""Settings of its modules that code reads while it is traced: a graph holds for what they were.

A setting is a plain value (a number, a flag, a text, None, a tuple of these) that somebody may set anew, on a module or
its class. `training` of a module below is one too, since norms may be frozen while the rest trains.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from .face import is_plain
from .guards import MACHINERY

_USUAL = frozenset(vars(nn.Module()))
_NOTHING = object()
# Almost all that code reads from modules is none of these, and each read of a traced block comes by here.
_KINDS = frozenset({bool, int, float, str, tuple, type(None)})


@dataclass(frozen=True)
class Setting:
    """What the module at `path` said to `name`, in each mode."""

    path: str
    name: str
    values: Mapping[str, Any]

    def asked(self, module: str) -> str:
        """The code that asks for it, of the module that is called `module`."""
        return f"{module}.get_submodule({self.path!r}).{self.name}" if self.path else f"{module}.{self.name}"

    def differs(self, module: str) -> str:
        """The code that says whether it is another one now."""
        asked = self.asked(module)
        if self.name == "training":
            return f"{asked} != {module}.training"
        first, *others = dict.fromkeys((type(value), value) for value in self.values.values())
        if others:
            return f"{asked} != ({self.values['train']!r} if {module}.training else {self.values['eval']!r})"
        value = first[1]
        return f"{asked} is not {value!r}" if value is None or isinstance(value, bool) else f"{asked} != {value!r}"


def settings_of(read: Mapping[str, Mapping[tuple[str, str], Any]]) -> tuple[Setting, ...]:
    """The settings that were read in each mode, in the order in which they were."""
    first: dict[tuple[str, str], Any] = {}
    for values in read.values():
        first = {**values, **first}
    return tuple(
        Setting(*key, {mode: values.get(key, value) for mode, values in read.items()}) for key, value in first.items()
    )


@contextmanager
def settings_noted(note: Callable[[nn.Module, str, Any], None]) -> Iterator[None]:
    """Let `note` see each setting that somebody's code reads from a module in here."""

    def noting(module: nn.Module, name: str) -> Any:
        try:
            value = object.__getattribute__(module, name)
        except AttributeError:
            # torch looks on; a child that is not there is None.
            held = object.__getattribute__(module, "__dict__").get("_modules", {})
            if held.get(name, _NOTHING) is None and _is_theirs():
                note(module, name, None)
            raise
        if (
            type(value) in _KINDS
            and is_plain(value)
            and name.isidentifier()
            and _may_be_set(module, name)
            and _is_theirs()
        ):
            note(module, name, value)
        return value

    reading: Any = nn.Module
    reading.__getattribute__ = noting
    try:
        yield
    finally:
        del reading.__getattribute__


def _may_be_set(module: nn.Module, name: str) -> bool:
    """Whether it is a value that is held: what a property makes of others is told by these."""
    if not name.isidentifier() or name.startswith("__") or (name in _USUAL and name != "training"):
        return False
    if name in object.__getattribute__(module, "__dict__"):
        return True
    return any(name in vars(base) and is_plain(vars(base)[name]) for base in type(module).__mro__)


def _is_theirs() -> bool:
    """Whether it is the model's own code that reads."""
    return not sys._getframe(2).f_code.co_filename.startswith(MACHINERY)
