"""A class's own code, run where a rewritten forward is not what runs: attention that it does not know of.

O1. What certain children return passes through the attention while the code runs; also where a checkpoint runs part of
    it again in the backward pass.
O2. Where no child returns what is gated, the children from which it is made are refused instead: what they give would
    go on without the attention.
O3. A method that is called from such code, or calls the forward, goes on with it: nothing is gated twice.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from types import FunctionType
from typing import Any

import torch
from torch import nn

from ..errors import PlanError

Gate = tuple[str, str, tuple[int, ...] | None]
"""(the child's path, the attention's, the permutation to channels first if it needs one)."""

_running = threading.local()
_LOCK = threading.Lock()


@dataclass(frozen=True)
class OwnCode:
    """How a module's own code may run: by `gates` (O1); none of `refused` may run in it (O2)."""

    gates: tuple[Gate, ...] = ()
    refused: tuple[str, ...] = ()

    @contextmanager
    def running(self, module: nn.Module, what: str) -> Iterator[Callable[[], bool]]:
        """Let `module` run its own code in here; gives whether each of the gates did something.

        Raises:
            PlanError: it comes by a refused child; `what` is named.

        """
        if runs_own_code(module):
            yield lambda: True
            return
        names = vars(_running).setdefault("modules", [])
        with ExitStack() as stack:
            gated = [
                stack.enter_context(passed_through(module.get_submodule(child), attrgetter(attention)(module), order))
                for child, attention, order in self.gates
            ]
            for path in self.refused:
                refuse = functools.partial(_refuse, f"{what} of {type(module).__name__}")
                stack.callback(attrgetter(path)(module).register_forward_pre_hook(refuse).remove)
            before = [gate.ran for gate in gated]
            names.append(module)
            try:
                yield lambda: all(gate.ran > ran for gate, ran in zip(gated, before, strict=True))
            finally:
                names.remove(module)


def runs_own_code(module: nn.Module) -> bool:
    """Whether code of the module's own class runs now, in this thread, around which attention was put."""
    # A compiler follows rewritten code only.
    return not torch.compiler.is_compiling() and any(other is module for other in vars(_running).get("modules", ()))


def _refuse(what: str, *_: Any) -> None:
    raise PlanError(
        f"{what} runs the class's own code, which goes past the attention that attach put in: call the module itself"
    )


class _Passing:
    """A forward hook that gates what a child returns while its block runs, and where a backward pass runs it again."""

    def __init__(self, attention: nn.Module, order: tuple[int, ...] | None) -> None:
        self.attention = attention
        self.order = order
        self.depth = 0
        self.ran = 0

    def __call__(self, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if not self.depth and torch._C._current_graph_task_id() == -1:
            return output
        self.ran += 1
        if self.order is None:
            return self.attention(output)  # type: ignore[no-any-return]
        back = tuple(self.order.index(axis) for axis in range(len(self.order)))
        return self.attention(output.permute(self.order)).permute(back)  # type: ignore[no-any-return]


@contextmanager
def passed_through(child: nn.Module, attention: nn.Module, order: tuple[int, ...] | None = None) -> Iterator[_Passing]:
    """Let what `child` returns in here pass through `attention`, viewed in `order` if that is given.

    Where gradients are wanted, the hook stays for checkpoints that run the code again; elsewhere it does nothing.
    """
    with _LOCK:
        gate = next((g for g in gates_on(child) if g.attention is attention and g.order == order), None)
        # The attention may have been replaced since.
        remove_gates(child, *(g for g in gates_on(child) if g is not gate and not g.depth))
        if gate is None:
            gate = _Passing(attention, order)
            child.register_forward_hook(gate)
        gate.depth += 1
    try:
        yield gate
    finally:
        with _LOCK:
            gate.depth -= 1
            if not gate.depth and not torch.is_grad_enabled():
                remove_gates(child, gate)


def gates_on(child: nn.Module) -> list[_Passing]:
    """The hooks that `passed_through` left."""
    return [hook for hook in child._forward_hooks.values() if isinstance(hook, _Passing)]


def remove_gates(child: nn.Module, *gates: _Passing) -> None:
    """Take such hooks off."""
    for key, hook in list(child._forward_hooks.items()):
        if hook in gates:
            del child._forward_hooks[key]


def methods_around(base: type[nn.Module], own: OwnCode) -> dict[str, FunctionType]:
    """The methods of a class beside its forward, by which its code may run by itself, each around the attention."""
    return {name: _around(own, name, method) for name, method in _methods(base).items()}


def may_call_forward(base: type[nn.Module]) -> bool:
    """Whether one of these methods calls the module itself, as far as its code tells (O3)."""
    return any(_calls_forward(method) for method in _methods(base).values())


def _methods(base: type[nn.Module]) -> Mapping[str, FunctionType]:
    found: dict[str, FunctionType] = {}
    for kind in base.__mro__:
        if kind is nn.Module or kind.__module__.startswith("torch.nn."):
            break
        for name, method in vars(kind).items():
            if isinstance(method, FunctionType) and name not in found and not hasattr(nn.Module, name):
                found[name] = method
    return {name: method for name, method in found.items() if name != "forward" and not name.startswith("__")}


def _around(own: OwnCode, name: str, method: FunctionType) -> Any:
    @functools.wraps(method)
    def steps(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with own.running(self, f"{name}()"):
            return (yield from method(self, *args, **kwargs))

    @functools.wraps(method)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with own.running(self, f"{name}()"):
            return method(self, *args, **kwargs)

    return steps if inspect.isgeneratorfunction(method) else run


@functools.cache
def _calls_forward(method: FunctionType) -> bool:
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(method))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return True
    if not isinstance(definition, ast.FunctionDef) or not definition.args.args:
        return True
    me = definition.args.args[0].arg
    attributes = [node for node in ast.walk(definition) if isinstance(node, ast.Attribute)]
    owners = [node.value for node in attributes]
    return any(node.attr in ("forward", "__call__") for node in attributes) or any(
        # Called, given away, or under another name.
        isinstance(node, ast.Name) and node.id == me and node not in owners
        for node in ast.walk(definition)
    )
