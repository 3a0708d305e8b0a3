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

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from .caches import nothing_kept
from .contents import (
    LEVELS,
    Versions,
    by_another_name,
    changed,
    parts,
    shapes,
    tensors_given,
    tensors_held,
    unchanged,
    versions,
)
from .factories import Draws, scripted_as_written
from .frames import ROOT, Call
from .hooks import Hooks
from .inputs import Inputs, Signature
from .leaves import Leaves
from .nodes import Frame, leaves_torch, mark_named, note_return, set_frame, set_place, set_value
from .origins import Origins
from .places import place_in_code
from .restoring import ALONE, as_it_was, private_tensors
from .spelled import attribute, made_from, spelling, written
from .types_asked import modules_of

# Functions that make a tensor of an array or of numbers.
_FROM_OUTSIDE = (torch.tensor, torch.as_tensor, torch.asarray)
_Function = Callable[..., Any]


class Watch:
    """One run of `skeleton` on `inputs` in `mode`: its graph, whose nodes have the values of the run as shapes."""

    def __init__(
        self, skeleton: nn.Module, leaves: Leaves, inputs: Inputs, mode: str, *, follows_hooks: bool = False
    ) -> None:
        self.graph = fx.Graph()
        self.constants: dict[str, torch.Tensor] = {}
        self.fixed_arguments: Mapping[str, Any] = {}
        self.calls: dict[Frame, Call] = {ROOT: Call(None)}
        self.hooks = Hooks(skeleton, followed=follows_hooks)
        self._skeleton = skeleton
        self._leaves = leaves
        self._inputs = inputs
        self._mode = mode
        self._frames: list[Frame] = [ROOT]
        # The model may call itself: its own first call is that of `run`.
        self._entries = Counter({"": 1})
        self._paths = {id(module): path for path, module in skeleton.named_modules()}
        self._weights: dict[int, str] = {}
        # Whether something runs that is one node.
        self._within = False
        self._origins = Origins(skeleton)

    def run(self) -> None:
        """Run the model; afterwards it is as it was, and so are the caller's generators.

        Raises:
            Exception: whatever the model raises.

        """
        with ExitStack() as stack:
            stack.enter_context(ALONE)
            stack.enter_context(nothing_kept(self._skeleton, real=True))
            stack.enter_context(Draws().undone())
            stack.enter_context(as_it_was(self._skeleton, self._mode))
            held = stack.enter_context(private_tensors(self._skeleton, "_parameters", "_buffers"))
            self._weights = {id(tensor): path for path, tensor in reversed(held.items())}
            stack.enter_context(self.hooks.restored())
            for module in self._skeleton.modules():
                stack.enter_context(self.hooks.around(module))
            stack.enter_context(self._functions_whole())
            stack.enter_context(self._watching())
            self._run()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        call, owner = nn.Module.__call__, threading.get_ident()

        def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            own = threading.get_ident() == owner
            return self._called(call, module, args, kwargs) if own else call(module, *args, **kwargs)

        nn.Module.__call__ = called  # type: ignore[method-assign]
        try:
            # Compiled functions run as they are written.
            with (
                torch.compiler.set_stance("force_eager"),
                scripted_as_written(lambda *_: not self._is_hidden()),
                _Operators(self),
                _Functions(self),
            ):
                yield
        finally:
            nn.Module.__call__ = call  # type: ignore[method-assign]

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
                self._node("placeholder", name, (), {}, value)
            for name, value in signature.named:
                mark_named(self._node("placeholder", name, (), {}, value))
        result = self._inputs.given_to(self._skeleton.forward)
        with self._aside():
            given = self._as_nodes(result)
            if not any(isinstance(part, fx.Node) for part in tree_leaves(given)):
                # An object of somebody's class.
                given = tuple(self._node_of(tensor) for tensor in tensors_held(result))
            self._node("output", "output", (given,), {}, None)

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
        if path is None or self._is_hidden():
            return call(module, *args, **kwargs)
        if self._leaves.is_one_call(module, path):
            with self._aside():
                before = versions((args, kwargs))
                output = by_another_name(call(module, *args, **kwargs), before)
                self._node("call_module", path, args, kwargs, output, before)
                self._note_written(before, output)
            return output
        frame = path, self._entries[path]
        self._frames.append(frame)
        self._entries[path] += 1
        # What it was given is noted when it has ended well: code may catch what it raises.
        self.calls[frame] = Call(self._frames[-2])
        try:
            output = call(module, *args, **kwargs)
        finally:
            self._frames.pop()
        with self._aside():
            self.calls[frame] = Call(self._frames[-1], *self._as_nodes((args, kwargs, output)))
            if isinstance(output, torch.Tensor):
                note_return(self._node_of(output), frame)
        return output

    # W1

    def call(self, function: _Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a function of torch gives, noted as a node."""
        if self._is_hidden():
            return function(*args, **kwargs)
        with self._aside():
            before = versions((args, kwargs))
            result = function(*args, **kwargs)
            name = str(getattr(function, "__name__", ""))
            if not name.endswith("_"):
                result = by_another_name(result, before)
            # What gives nothing back has written into something, which inference tensors do not say.
            into = args[:1] if name == "__setitem__" else changed(before)
            gives = next(iter(into), None) if result is None else result
            if (read := attribute(function)) is not None:
                self._note_attribute(name, read, args, result)
            elif leaves_torch(name, gives):
                self._origins.left(self._note_call(function, args, kwargs, gives, before).all_input_nodes)
            elif not before and function in _FROM_OUTSIDE and (sources := self._origins.brought(result)):
                self._node("call_function", made_from, sources, {}, gives)
            elif any(True for _ in tensors_held(gives)):
                self._note_call(function, args, kwargs, gives, before)
            self._note_written(before, gives)
        return result

    def _note_call(
        self, function: _Function, args: tuple[Any, ...], kwargs: dict[str, Any], gives: Any, before: Versions
    ) -> fx.Node:
        op, target, swapped = spelling(function)
        return self._node(op, target, args[::-1] if swapped else args, kwargs, gives, before)

    def _note_attribute(self, access: str, name: str, args: tuple[Any, ...], result: Any) -> None:
        if access == "__get__" and isinstance(result, torch.Tensor):
            self._node("call_function", getattr, (args[0], name), {}, result)
        elif access == "__set__" and name == "data":
            self._origins.is_given_by(args[0], self._node_of(args[1]))

    def _note_written(self, before: Versions, result: Any) -> None:
        """What was written into, and was not given back, is another value now; so is what it is a view of."""
        given = {id(tensor) for tensor in tensors_held(result)}
        for tensor in changed(before):
            if id(tensor) not in given:
                self._node("call_function", written, (tensor, result), {}, tensor)
            base = tensor._base
            if base is not None and base is not tensor and self._is_known(base):
                self._node("call_function", written, (base, tensor), {}, base)

    # W3

    def derive(self, made: Any, given: Any) -> None:
        """Note from which nodes the results of an operator come that runs within no node."""
        if self._within:
            return
        with self._aside():
            sources = [
                node
                for tensor in tensors_given(given)
                for node in ((self._node_of(tensor),) if self._is_known(tensor) else self._origins.made_of(tensor))
            ]
            for tensor in tensors_given(made):
                self._origins.is_made_of(tensor, sources)

    # Nodes

    def _is_known(self, tensor: torch.Tensor) -> bool:
        return tensor in self._origins or id(tensor) in self._weights

    def _node(
        self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any, before: Versions = ()
    ) -> fx.Node:
        """A node that gives `value`, with nodes in the place of tensors among its arguments.

        `before` are the tensors that it was given: one that it gives back as it was, among other things, stays known as
        what it was.
        """
        given, named = map_aggregate((args, kwargs), self._argument)
        node = self.graph.create_node(op, target, given, named)
        set_frame(node, self._frames[-1])
        if op in ("call_function", "call_method"):
            set_place(node, place_in_code())
        self._bind(node, value, unchanged(before))
        return node

    def _bind(self, node: fx.Node, value: Any, same: Collection[int], levels: int = LEVELS) -> None:
        """Let the tensors in `value`, but for those in `same`, be known as what `node` gives, or as parts of it."""
        set_value(node, shapes(value))
        if isinstance(value, torch.Tensor):
            if id(value) not in same:
                self._origins.is_given_by(value, node)
            return
        for take, key, part in parts(value) if levels else ():
            if any(True for _ in tensors_held(part, levels - 1)):
                inner = self.graph.create_node("call_function", take, (node, key))
                set_frame(inner, self._frames[-1])
                set_place(inner, place_in_code())
                self._bind(inner, part, same, levels - 1)

    def _argument(self, value: Any) -> Any:
        return self._node_of(value) if isinstance(value, torch.Tensor) else value

    def _as_nodes(self, structure: Any) -> Any:
        return tree_map_only(torch.Tensor, self._node_of, structure)

    def _node_of(self, tensor: torch.Tensor) -> fx.Node:
        """The node that gives a tensor: noted, a weight's, of what is known to have gone into it, or a constant's."""
        name = self._weights.get(id(tensor))
        if (known := self._origins.node_of(tensor)) is not None and (name is None or tensor in self._origins):
            return known
        if name is None and (sources := self._origins.made_of(tensor) or self._origins.brought(tensor)):
            return self._node("call_function", made_from, sources, {}, tensor)
        if name is None:
            name = f"_{self._mode}_constant_{len(self.constants)}"
            self.constants[name] = tensor
        return self._node("get_attr", name, (), {}, tensor)


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
