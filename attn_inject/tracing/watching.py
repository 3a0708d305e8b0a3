"""The data flow of one run of a model, watched from outside: plain tensors, whatever code makes them.

Nothing stands in the place of a tensor, so that code may do with it what it likes: decide on its numbers, hand it to
numpy, differentiate it, give it to a function that torch compiled. Three of torch's own ways to watch it:

W1. A mode for torch's functions (`TorchFunctionMode`) sees each function and method that is called with its operands,
    which is a node; what runs within one is not looked at.
W2. Calls of modules tell whose `forward` runs. A module that is one call for a trace is one node here.
W3. A mode for the operators beneath (`TorchDispatchMode`) sees what the first does not: operators within `vmap`,
    scripted code, functions that C++ calls. A value made there alone is known by what it was made from.

What is written in place flows into whatever the tensor is a view of. Tensors are told apart by identity.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .bare import BareCalls
from .bounds import Bounds
from .branches import COND, both_run
from .caches import nothing_kept
from .checkpoints import quiet_checkpoints
from .compiled import as_written
from .contents import (
    by_another_name,
    read_out,
    tensors_held,
    versions,
)
from .draws import Draws
from .factories import scripted_as_written
from .frames import as_handed_over
from .hooks import Hooks
from .inputs import Inputs, Signature
from .leaves import Leaves
from .nodes import mark_named
from .noting import Notes
from .onlookers import copies_of
from .restoring import ALONE, as_it_was, private_tensors
from .spelled import plain_name
from .turns import threads_in_turn
from .types_asked import modules_of

_Function = Callable[..., Any]


class Watch:
    """One run of `skeleton` on `inputs` in `mode`: its graph, whose nodes have the values of the run as shapes."""

    def __init__(
        self,
        skeleton: nn.Module,
        leaves: Leaves,
        inputs: Inputs,
        mode: str,
        *,
        follows_hooks: bool = False,
        strangers: Collection[int] = (),
    ) -> None:
        self.fixed_arguments: Mapping[str, Any] = {}
        self.hooks = Hooks(skeleton, followed=follows_hooks, values=self._copies_for_hooks)
        self._skeleton = skeleton
        self._leaves = leaves
        self._inputs = inputs
        self._mode = mode
        self._paths = {id(module): path for path, module in skeleton.named_modules()}
        self._weights: dict[int, str] = {}
        self.notes = Notes(skeleton, mode, self._weights)
        # Whether something runs that is one node.
        self._within = False
        self._bounds = Bounds(strangers)
        self._bare = BareCalls(self._called_by_name)

    def run(self) -> None:
        """Run the model; afterwards it is as it was, and so are the caller's generators.

        Raises:
            Exception: whatever the model raises.

        """
        with ExitStack() as stack:
            stack.enter_context(ALONE)
            stack.enter_context(quiet_checkpoints())
            stack.enter_context(nothing_kept(self._skeleton, real=True))
            stack.enter_context(Draws.of(self._skeleton).undone())
            held = stack.enter_context(private_tensors(self._skeleton, "_parameters", "_buffers"))
            stack.enter_context(as_it_was(self._skeleton, self._mode))
            self._weights.update({id(tensor): path for path, tensor in reversed(held.items())})
            stack.enter_context(self.hooks.restored())
            for module in self._skeleton.modules():
                stack.enter_context(self.hooks.around(module))
            stack.enter_context(self._functions_whole())
            stack.enter_context(self._bare.told(self._skeleton, but_in=self._leaves.is_one_call))
            stack.enter_context(self._watching())
            self._run()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        call = nn.Module.__call__

        def called(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            if self._bounds.are_left(with_a_part=id(module) in self._paths):
                return call(module, *args, **kwargs)
            return self._called(call, module, args, kwargs)

        nn.Module.__call__ = called  # type: ignore[method-assign]
        try:
            with (
                as_written(),
                scripted_as_written(lambda *_: not self._is_hidden()),
                threads_in_turn(self._modes),
                _modes_stay(),
                self._modes(),
            ):
                yield
        finally:
            nn.Module.__call__ = call  # type: ignore[method-assign]
        self._bounds.refuse_threads()
        self.hooks.refuse_what_was_shown(self.notes.constants.values())

    @contextmanager
    def _copies_for_hooks(self, shown: Sequence[Any]) -> Iterator[Sequence[Any]]:
        with self._aside():
            yield copies_of(shown)

    @contextmanager
    def _modes(self) -> Iterator[None]:
        with _Operators(self), _Functions(self):
            yield

    @contextmanager
    def _functions_whole(self) -> Iterator[None]:
        """Let the functions that a trace keeps whole be single nodes here too, under whatever name code has them."""
        known = {function: partial(self._call, function) for function in self._leaves.functions}
        homes = [vars(module) for module in (modules_of(self._skeleton) if known else ())]
        found = [
            (home, name, value)
            for home in homes
            for name, value in home.items()
            if type(value) is FunctionType and value in known
        ]
        for home, name, value in found:
            home[name] = known[value]
        try:
            yield
        finally:
            for home, name, value in found:
                home[name] = value

    def _call(self, function: _Function, *args: Any, **kwargs: Any) -> Any:
        return self.call(function, args, kwargs)

    def _run(self) -> None:
        signature = Signature.of(self._skeleton.forward, self._inputs)
        self.fixed_arguments = signature.fixed
        with self._aside():
            for name, value in signature.positional:
                self.notes.node("placeholder", name, (), {}, value)
            for name, value in signature.named:
                mark_named(self.notes.node("placeholder", name, (), {}, value))
        result = read_out(self._inputs.given_to(self._skeleton.forward))
        with self._aside():
            given = self.notes.as_nodes(result)
            output = self.notes.node("output", "output", (given,), {}, None)
            if not output.all_input_nodes:
                # An object of somebody's class.
                output.args = (tuple(self.notes.node_of(tensor) for tensor in tensors_held(result)),)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """What runs in here is no node: it is within one, or our own."""
        before, self._within = self._within, True
        try:
            yield
        finally:
            self._within = before

    def _is_hidden(self) -> bool:
        """Whether what runs now is no node: it runs aside, or on the tensors of a transform (`vmap`, `grad`)."""
        return self._within or torch._C._functorch.peek_interpreter_stack() is not None

    # W2

    def _called(self, call: _Function, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        path = self._paths.get(id(module))
        if path is None:
            self._bounds.refuse_stranger(module)
        if path is None or self._is_hidden():
            return call(module, *args, **kwargs)
        if self._leaves.is_one_call(module, path):
            with self._aside():
                before = versions((args, kwargs))
                output = by_another_name(call(module, *args, **kwargs), before)
                self.notes.node("call_module", path, args, kwargs, output, before)
                self.notes.written(before, output)
            return output
        with self._bare.expected(module):
            return self._followed(path, partial(call, module), args, kwargs)

    def _called_by_name(
        self, module: nn.Module, forward: _Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self._paths[id(module)]
        hidden = self._bounds.are_left(with_a_part=True) or self._is_hidden()
        if hidden or self._leaves.is_one_call(module, path):
            return forward(*args, **kwargs)
        return self._followed(path, forward, args, kwargs, is_bare=True)

    def _followed(
        self, path: str, run: _Function, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_bare: bool = False
    ) -> Any:
        given, named = as_handed_over((args, kwargs))
        with self.notes.stack.within(path, is_bare=is_bare) as frame:
            output = run(*args, **kwargs)
        with self._aside():
            self.notes.ended(frame, given, named, output)
        return output

    # W1

    def call(self, function: _Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a function of torch gives, noted as a node."""
        if self._is_hidden():
            return function(*args, **kwargs)
        if function is COND:
            with _Functions(self):
                return both_run(*args, **kwargs)
        with self._aside():
            before = versions((args, kwargs))
            result = function(*args, **kwargs)
            name = plain_name(function)
            if not name.endswith("_"):
                result = by_another_name(result, before)
            self.notes.called(function, args, kwargs, result, before)
        return result

    # W3

    def derive(self, made: Any, given: Any) -> None:
        """Note from which nodes the results of an operator come that runs within no node."""
        if not self._within:
            with self._aside():
                self.notes.derived(made, given)


@contextmanager
def _modes_stay() -> Iterator[None]:
    """Let code that goes without `__torch_function__` go without that of subclasses alone, and not without modes."""
    both = torch._C.DisableTorchFunction
    torch._C.DisableTorchFunction = torch._C.DisableTorchFunctionSubclass
    try:
        yield
    finally:
        torch._C.DisableTorchFunction = both


class _Functions(TorchFunctionMode):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._watch.call(func, args, kwargs or {})


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    supports_higher_order_operators = True

    def __init__(self, watch: Watch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self._watch.derive(made, (args, kwargs))
        return made
