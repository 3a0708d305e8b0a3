"""What a graph keeps of the class that it was made from: what the model around it may ask, and how it may call it.

F1. Properties, static methods and classes in it are answered from the class. They run on the patched module, and take
    no image.
F2. Methods are kept where they reach the modules by the forward alone (`methods`). Others would run the class's own
    code, without the attention: the error names `attach`.
F3. An argument that the graph has no place for is taken, and must be what the graph was made with.
F4. Where the class has its own `train` or `eval` (which keep norms as they are), or its own way to give and take a
    state dict, that is what runs, on the patched module's tables.
"""

from __future__ import annotations

import inspect
import itertools
import keyword
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from types import MethodType
from typing import Any

from torch import fx, nn

from ..errors import ArgumentError, PlanError
from .nodes import value_of

_ANSWERED = (property, cached_property, staticmethod, type)


def face_of(module: nn.Module) -> type:
    """The class that a module is of, or was before it became a graph."""
    face: type = vars(module).get("_inj_face", type(module))
    return face


def is_answered(face: type, name: str) -> bool:
    """F1."""
    return isinstance(inspect.getattr_static(face, name, None), _ANSWERED)


def answer(module: nn.Module, name: str) -> Any:
    """What the class of `module` says to `name`, which it answers."""
    face = face_of(module)
    held = inspect.getattr_static(face, name)
    return held if isinstance(held, type) else held.__get__(module, face)


KEPT = ("train", "eval", "state_dict", "load_state_dict", "_save_to_state_dict", "_load_from_state_dict")


def as_its_class(graph: nn.Module, name: str, /, *args: Any, **kwargs: Any) -> Any:
    """F4: what the method at `name`, one of `KEPT`, does on a module of the class that holds what `graph` holds."""
    face = face_of(graph)
    if getattr(face, name, None) is getattr(nn.Module, name):
        return getattr(nn.Module, name)(graph, *args, **kwargs)
    stand_in: nn.Module = object.__new__(face)
    before = {key: value for key, value in vars(graph).items() if not key.startswith("_inj_")}
    vars(stand_in).update(before)
    given = getattr(face, name)(stand_in, *args, **kwargs)
    for key in before.keys() - vars(stand_in).keys():
        del vars(graph)[key]
    vars(graph).update({key: value for key, value in vars(stand_in).items() if value is not before.get(key, graph)})
    # Some give nothing back where torch's give the module.
    return graph if given is stand_in or (given is None and name in ("train", "eval")) else given


def attributes_of(module: nn.Module) -> dict[str, Any]:
    """What the class, or whoever made the module, keeps on it beside what every module and every graph has."""
    usual = vars(fx.GraphModule(nn.Module(), fx.Graph()))
    return {
        name: value
        for name, value in vars(module).items()
        if name not in usual and not name.startswith("_inj_") and name not in ("injection", "forward")
    }


def portable_face(face: type) -> type:
    """The class, if another process can import it; a plain module's if it cannot."""
    found: Any = sys.modules.get(face.__module__)
    for name in face.__qualname__.split("."):
        found = getattr(found, name, None)
    return face if found is face else nn.Module


def say_what_is_lost(face: type, carried: type) -> None:
    """Warn of the methods of `KEPT` that the class has and a pickle has not, which carries another class for it."""
    lost = [name for name in KEPT if getattr(face, name, None) is not getattr(carried, name, None)]
    if lost:
        warnings.warn(
            f"the pickle is without {face.__name__}'s own {', '.join(f'{name}()' for name in lost)}: no other process "
            "can import the class; define it in a module, outside of functions",
            UserWarning,
            stacklevel=2,
        )


def is_plain(value: Any) -> bool:
    """Whether two values like this can be compared, and mean the same where they are equal."""
    return (
        value is None
        or isinstance(value, (bool, int, float, str))
        or (type(value) is tuple and all(map(is_plain, value)))
    )


def is_of_numbers(value: Any) -> bool:
    """Whether a value is a number, or a tuple or a list of nothing else.

    >>> is_of_numbers((7, [8, 9.0])), is_of_numbers(True), is_of_numbers(())
    (True, False, False)
    """
    if isinstance(value, (tuple, list)):
        return bool(value) and all(map(is_of_numbers, value))
    return type(value) in (int, float)


def may_be_fixed(name: str, value: Any) -> bool:
    """Whether F3 can be had for an argument."""
    return is_plain(value) and name.isidentifier() and not keyword.iskeyword(name)


def parameters_of(face: type, places: Sequence[str], fixed: Mapping[str, Any], *, keeps_defaults: bool = False) -> str:
    """The parameters of a forward that takes `places` and what is fixed, in the order of the class's own.

    Left out, an argument is what it is fixed at; or the class's own default, if these are kept.

    >>> from torch import nn
    >>> class Net(nn.Module):
    ...     def forward(self, x, scale, *, deep=False): ...
    >>> parameters_of(Net, ["x"], {"scale": 2.0, "deep": True})
    "self, x, scale=inj_fixed['scale'], *, deep=inj_fixed['deep']"
    >>> parameters_of(Net, ["x", "scale"], {"deep": True}, keeps_defaults=True)
    'self, x, scale, *, deep=False'
    """
    # Called on an object, so that its first parameter, whatever its name, is none of them.
    own = inspect.signature(MethodType(face.forward, object())).parameters  # type: ignore[attr-defined]
    defaults = {name: (keeps_defaults and _default(own, name)) or f"inj_fixed[{name!r}]" for name in fixed}
    ours = [name for name in own if name in places or name in fixed]
    written = _by_position(own, ours, defaults)
    if not all(place in own for place in places):
        # The values of `*args` are places without a parameter.
        written = {place: place for place in places}
    # Fixed ones without a parameter are of `**kwargs`.
    rest = [name for name in (*ours, *(name for name in fixed if name not in own)) if name not in written]
    named = [f"{name}={defaults[name]}" if name in fixed else _place(own, name) for name in rest]
    return ", ".join(["self", *written.values(), *(["*", *named] if named else [])])


def _by_position(
    own: Mapping[str, inspect.Parameter], ours: Sequence[str], defaults: Mapping[str, str]
) -> dict[str, str]:
    """Those of `ours` that are given by position, as they are written: up to the first parameter that is none of them.

    `defaults` are those of what is fixed.
    """
    order = [name for name, p in own.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    order = list(itertools.takewhile(lambda name: name in ours, order))
    may_follow = [name in defaults or _default(own, name) is not None for name in order]
    written: dict[str, str] = {}
    for at, name in enumerate(order):
        is_after_default = any("=" in text for text in written.values())
        if is_after_default or (all(may_follow[at + 1 :]) and (name in defaults or _place(own, name) != name)):
            default = defaults.get(name) or _default(own, name)
            if default is None:
                break
            written[name] = f"{name}={default}"
        else:
            written[name] = name
    return written


def _place(own: Mapping[str, inspect.Parameter], name: str) -> str:
    """A place as it is written: where it stands for a number of the class's, it may be left out as there."""
    default = _default(own, name) if is_of_numbers(own[name].default) else None
    return name if default is None else f"{name}={default}"


def _default(own: Mapping[str, inspect.Parameter], name: str) -> str | None:
    """The default of a class's own parameter as it is written, if it has one that can be."""
    return literal(own[name].default) if name in own else None


def literal(value: Any) -> str | None:
    """A plain value as Python has it written; None for one of another class, as a member of an enumeration.

    >>> literal((1, float("-inf"), "same"))
    "(1, float('-inf'), 'same', )"
    """
    if type(value) is tuple:
        parts = [literal(part) for part in value]
        return None if None in parts else f"({''.join(f'{part}, ' for part in parts)})"
    if type(value) is float and not math.isfinite(value):
        return f"float({str(value)!r})"
    return repr(value) if type(value) in (type(None), bool, int, float, str) else None


def forward_of(
    face: type,
    graph: fx.Graph,
    fixed: Mapping[str, Any],
    run: str,
    scope: Mapping[str, Any] | None = None,
    *,
    first: str = "",
) -> Callable[..., Any]:
    """A forward with the arguments of the class's own, which checks F3 and gives the others to `run`.

    That is the code of a function of the module and the values of the graph's places; `scope` has its names. `first` is
    a statement that stands before it.
    """
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    places = [str(node.target).lstrip("*") for node in placeholders]
    values = {place: value_of(node) for place, node in zip(places, placeholders, strict=True)}
    numbers = {name: value for name, value in values.items() if is_of_numbers(value)}
    # Without a number the class's code goes another way.
    checks = [f"    if {name} is None: inj_check({name!r}, None, inj_numbers[{name!r}])\n" for name in numbers]
    checks += [
        f"    if {name} is not inj_fixed[{name!r}]: inj_check({name!r}, {name}, inj_fixed[{name!r}])\n"
        for name in fixed
    ]
    source = (
        f"def forward({parameters_of(face, places, fixed)}):\n{''.join(checks)}"
        f"    {first or 'pass'}\n"
        "    try:\n"
        f"        return {run}({', '.join(['self', *places])})\n"
        "    except RuntimeError as error:\n"
        "        inj_explain(self, error)\n"
        "        raise\n"
    )
    made: dict[str, Any] = {
        "inj_fixed": fixed,
        "inj_numbers": numbers,
        "inj_check": must_be_as_fixed,
        "inj_explain": must_be_sharded_whole,
        **(scope or {}),
    }
    exec(source, made)
    forward: Callable[..., Any] = made["forward"]
    return forward


def must_be_sharded_whole(graph: nn.Module, error: RuntimeError) -> None:
    """Explain what comes of sharding one block of a graph, which calls what the block holds, but not the block.

    Raises:
        PlanError: says what to shard instead.

    """
    if "DTensor" in str(error) and any(hasattr(parameter, "device_mesh") for parameter in graph.parameters()):
        raise PlanError(
            "this graph never calls its blocks, so that fully_shard(block) does not reach them: shard the graph as a "
            "whole, with fully_shard(model) alone, or use attach(), whose blocks are called"
        ) from error


def must_be_as_fixed(
    name: str, given: Any, fixed: Any, what: str = "graph", mend: str = "attach() keeps the class, which takes it"
) -> None:
    """F3.

    Raises:
        ArgumentError: another value than `what` was made with; `mend` is the way out.

    """
    if type(given) is not type(fixed) or given != fixed:
        shown = repr(given) if is_plain(given) else f"a {type(given).__name__}"
        raise ArgumentError(f"the {what} was made with {name}={fixed!r} and is given {shown}: {mend}")


must_be_as_written = partial(
    must_be_as_fixed, what="forward with attention", mend="attach with example_inputs that lead to this call"
)
"""F3 for a forward that `attach` wrote."""


class Faced(nn.Module):
    """What answers F1 of a class that it no longer is of."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if is_answered(face_of(self), name):
                return answer(self, name)
            raise
