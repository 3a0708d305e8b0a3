"""The same model again over the same weights, for work that must leave the caller's as it is."""

from __future__ import annotations

import copy
import types
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import nn

from .contents import filled_slots
from .hook_tables import copy_hooks, hook_tables
from .inputs import tensors_in
from .rebound import Rebinding
from .sharded import must_not_be_sharded

# What `copy.deepcopy` gives back as it is.
_ATOMS = frozenset(
    {
        *(bool, int, float, complex, str, bytes, type(None), type),
        *(types.FunctionType, types.BuiltinFunctionType),
        *(torch.dtype, torch.device, torch.layout, torch.memory_format),
    }
)
_TABLES = ("_parameters", "_buffers", "_modules")


def alias(model: nn.Module) -> nn.Module:
    """The same modules again over the same storage: new `Parameter` objects that share memory, shared buffers.

    Modes, flags, hooks and children can be changed on the alias without the original noticing; no weight is copied.

    Raises:
        PlanError: the model is sharded.

    """
    must_not_be_sharded(model)
    memo: dict[int, Any] = {}
    modules = list(model.modules())
    for module in modules:
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in memo:
                memo[id(parameter)] = _alias_parameter(parameter)
        memo.update({id(buffer): buffer for buffer in module._buffers.values() if buffer is not None})
        if callable(shared := getattr(type(module), "shared_by_aliases", None)):
            memo.update({id(value): value for value in shared(module)})
    for module in modules:
        _make(module, memo)
    for module in modules:
        if id(module) in memo:
            continue
        # Every module has a dozen empty tables for hooks, whose copies would take most of the time.
        empty = [value for value in vars(module).values() if type(value) is OrderedDict and not value]
        memo.update({id(table): OrderedDict() for table in empty})
        memo.update(with_history(module))
        memo.update({id(table): OrderedDict() for table in hook_tables(module)})
    other = _copy_of(model, modules, memo)
    rebinding = Rebinding(memo)
    for module in modules:
        _copy_slots(module, memo)
        copy_hooks(module, memo, rebinding)
        if (forward := compiled_forward(module)) is not None:
            held = vars(memo[id(module)])
            held["forward"] = types.MethodType(forward.__func__, memo[id(module)])
            if not has_own_forward(module):
                del held["forward"]
        _rebind(vars(memo[id(module)]), rebinding)
    return other


def _rebind(held: dict[str, Any], rebinding: Rebinding) -> None:
    """Let functions among the attributes of an alias's module run the alias's modules, where they ran the model's."""
    kinds = (types.FunctionType, types.MethodType, weakref.ref)
    held.update({name: rebinding.of(value) for name, value in list(held.items()) if type(value) in kinds})
    for table in [value for value in held.values() if type(value) in (list, dict)]:
        # A copy's own.
        for key, value in list(enumerate(table) if type(table) is list else table.items()):
            if type(value) in kinds:
                table[key] = rebinding.of(value)


def compiled_forward(module: nn.Module) -> types.MethodType | None:
    """The method that was compiled where `module.forward = torch.compile(module.forward)`, which no copy runs on the
    copy's own weights.
    """
    method = getattr(vars(module).get("forward"), "_torchdynamo_orig_callable", None)
    if not isinstance(method, types.MethodType):
        # Around the methods of torch's own layers torch puts a function.
        method = getattr(method, "__wrapped__", None)
    return method if isinstance(method, types.MethodType) and method.__self__ is module else None


def has_own_forward(module: nn.Module) -> bool:
    """Whether another forward than that of its class runs."""
    compiled = compiled_forward(module)
    return "forward" in vars(module) and (compiled is None or compiled.__func__ is not type(module).forward)


def _copy_of(model: nn.Module, modules: list[nn.Module], memo: dict[int, Any]) -> nn.Module:
    """`copy.deepcopy` with `memo`; attributes that it refuses (locks, views of dicts, open files) are shared."""
    known = dict(memo)
    try:
        return copy.deepcopy(model, memo)
    except Exception:
        held = [value for module in modules for name, value in vars(module).items() if name not in _TABLES]
        shared = {id(part): part for value in held for part in _refused(value, known, set())}
        if not shared:
            raise
    # What the first try left half made is not for use.
    memo.clear()
    memo.update(known | shared)
    return copy.deepcopy(model, memo)


def _refused(value: Any, memo: dict[int, Any], seen: set[int]) -> Iterator[Any]:
    """The innermost parts of a setting that `copy.deepcopy` refuses."""
    if isinstance(value, nn.Module) or id(value) in seen:
        return
    seen.add(id(value))
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:
        inner: Iterable[Any] = ()
        if isinstance(value, (list, tuple, set)):
            inner = value
        elif isinstance(value, dict):
            inner = value.values()
        elif isinstance(getattr(value, "__dict__", None), dict) and not isinstance(value, types.ModuleType):
            inner = vars(value).values()
        parts = [part for each in inner for part in _refused(each, memo, seen)]
        yield from parts or [value]


def with_history(module: nn.Module) -> dict[int, Any]:
    """What a module keeps of results with gradients, by id: `copy.deepcopy` refuses them, so that they are shared.

    Buffers are not among them: what a copy does to those in place would be done to the original.
    """
    kept = [value for name, value in vars(module).items() if name not in _TABLES]
    return {id(tensor): tensor for tensor in tensors_in(kept) if tensor.grad_fn is not None}


def _copy_slots(module: nn.Module, memo: dict[int, Any]) -> None:
    """Copy what `__slots__` of somebody's class hold, which torch's own copies leave out."""
    for _, slot in filled_slots(module):
        slot.__set__(memo[id(module)], copy.deepcopy(slot.__get__(module), memo))


def copied(model: nn.Module) -> nn.Module:
    """The same again over weights and buffers of its own; what is shared within the model stays shared within the copy.

    Gradients and tensors with a history, which `copy.deepcopy` refuses, stay the caller's.
    """
    other = alias(model)
    own: dict[int, Any] = {}
    for module in other.modules():
        for table in (module._parameters, module._buffers):
            for name, held in table.items():
                if held is not None:
                    # A parameter of somebody's own kind is the caller's, in an alias too.
                    table[name] = own_once(held, own)
    return other


def own_once(tensor: torch.Tensor, made: dict[int, Any]) -> Any:
    """`own_tensor`; what was `made` of the same tensor before is it again."""
    if id(tensor) not in made:
        made[id(tensor)] = own_tensor(tensor)
    return made[id(tensor)]


def own_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The same parameter or buffer in memory of its own."""
    if type(tensor) is not nn.Parameter:
        return copy.deepcopy(tensor) if isinstance(tensor, nn.Parameter) else tensor.clone()
    cloned = nn.Parameter(tensor.detach().clone(), requires_grad=tensor.requires_grad)
    vars(cloned).update(vars(tensor))
    return cloned


def _alias_parameter(parameter: nn.Parameter) -> nn.Parameter:
    if type(parameter) is not nn.Parameter:
        return parameter
    aliased = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    vars(aliased).update(vars(parameter))
    return aliased


def _make(module: nn.Module, memo: dict[int, Any]) -> None:
    """Put what `copy.deepcopy` would make of a plain module into `memo`, many times faster.

    A plain one copies as every module does and holds weights, plain modules and settings; `copy.deepcopy` does others.
    """
    if id(module) in memo or not _copies_as_usual(type(module)):  # type: ignore[arg-type]  # a class has a hash
        return
    held: dict[str, Any] = {}
    for name, value in vars(module).items():
        kind = type(value)
        if name == "_compiled_call_impl":
            continue
        if kind in _ATOMS or (kind is tuple and all(type(part) in _ATOMS for part in value)):
            held[name] = value
        elif kind in (dict, OrderedDict) and name in _TABLES:
            for child in value.values() if name == "_modules" else ():
                if child is not None:
                    _make(child, memo)
            if not all(each is None or id(each) in memo for each in value.values()):
                return
            held[name] = kind((key, None if each is None else memo[id(each)]) for key, each in value.items())
        elif (kind in (dict, OrderedDict) and not value) or (
            kind in (list, set) and all(type(part) in _ATOMS for part in value)
        ):
            # Two modules may share one.
            held[name] = memo.setdefault(id(value), kind(value))
        else:
            return
    other = memo[id(module)] = type(module).__new__(type(module))
    vars(other).update(held)


@cache
def _copies_as_usual(kind: type[nn.Module]) -> bool:
    """Whether a copy of a module of this class is its attributes' copies."""
    if (writing := vars(kind).get("attn_inject_writing")) is not None:
        # Its own way to pickle is for other processes.
        return _copies_as_usual(writing.base)
    return (
        not hasattr(kind, "__deepcopy__")
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and all(map(_is_torchs, (kind.__getstate__, kind.__setstate__)))
        and kind.__new__ is object.__new__
        and kind.__basicsize__ == nn.Module.__basicsize__
    )


def _is_torchs(method: Any) -> bool:
    """torch's own leave out what it compiled, and know old pickles."""
    return method is object.__getstate__ or str(getattr(method, "__module__", "")).startswith("torch.nn.")
