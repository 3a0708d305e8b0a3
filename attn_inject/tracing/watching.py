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

import operator
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields, is_dataclass
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import fx, nn
from torch._ops import OpOverload
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from .caches import nothing_kept
from .factories import Draws, scripted_as_written
from .frames import ROOT, Call
from .hooks import Hooks
from .inputs import Inputs, Signature, tensors_in
from .leaves import Leaves
from .nodes import Frame, leaves_torch, mark_named, note_return, set_frame, set_place, set_value
from .places import place_in_code
from .proxies import index_assign
from .restoring import ALONE, as_it_was, private_tensors
from .types_asked import modules_of
from .values import to_meta

# How deep a tensor may lie in what a module gives.
_LEVELS = 4
# Functions that make a tensor of an array or of numbers.
_FROM_OUTSIDE = (torch.tensor, torch.as_tensor, torch.asarray)
_Function = Callable[..., Any]
_Versions = Sequence[tuple[torch.Tensor, int | None]]


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
        self._nodes: Any = WeakTensorKeyDictionary()
        self._sources: Any = WeakTensorKeyDictionary()
        self._memory: dict[int, tuple[torch.UntypedStorage, fx.Node, Any]] = {}
        # What code has got as arrays and numbers, of which it may make tensors again; and what tensors it had before.
        self._outside: dict[fx.Node, None] = {}
        self._older = {id(part) for module in skeleton.modules() for part in tensors_in(list(vars(module).values()))}

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
                given = tuple(self._node_of(tensor) for tensor in _tensors(result))
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
                before = _versions((args, kwargs))
                output = call(module, *args, **kwargs)
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
            before = _versions((args, kwargs))
            result = function(*args, **kwargs)
            # What gives nothing back has written into something, which inference tensors do not say.
            written_into = args[:1] if getattr(function, "__name__", "") == "__setitem__" else _written(before)
            gives = next(iter(written_into), None) if result is None else result
            if (attribute := _attribute(function)) is not None:
                self._note_attribute(function.__name__, attribute, args, result)
            elif leaves_torch(getattr(function, "__name__", ""), gives) or any(True for _ in _tensors(gives)):
                op, target, swapped = _spelling(function)
                if function in _FROM_OUTSIDE and not before and gives is not None and self._brought(gives):
                    op, target, args = "call_function", made_from, tuple(self._outside)
                    kwargs = {}
                node = self._node(op, target, args[::-1] if swapped else args, kwargs, gives, before)
                if leaves_torch(str(target), gives):
                    self._outside.update(dict.fromkeys(node.all_input_nodes))
            self._note_written(before, gives)
        return result

    def _note_attribute(self, access: str, name: str, args: tuple[Any, ...], result: Any) -> None:
        if access == "__get__" and isinstance(result, torch.Tensor):
            self._node("call_function", getattr, (args[0], name), {}, result)
        elif access == "__set__" and name == "data":
            self._nodes[args[0]] = self._node_of(args[1])

    def _note_written(self, before: _Versions, result: Any) -> None:
        """What was written into, and was not given back, is another value now; so is what it is a view of."""
        given = {id(tensor) for tensor in _tensors(result)}
        for tensor in _written(before):
            if id(tensor) not in given:
                self._node("call_function", written, (tensor, result), {}, tensor)
            base = tensor._base
            if base is not None and base is not tensor and (base in self._nodes or id(base) in self._weights):
                self._node("call_function", written, (base, tensor), {}, base)

    # W3

    def derive(self, made: Any, given: Any) -> None:
        """Note from which nodes the results of an operator come that runs within no node."""
        if self._within:
            return
        sources: dict[fx.Node, None] = {}
        with self._aside():
            for tensor in _in(given):
                if tensor in self._nodes or id(tensor) in self._weights:
                    sources[self._node_of(tensor)] = None
                else:
                    sources.update(self._sources.get(tensor, {}))
            for tensor in _in(made):
                self._sources[tensor] = {**self._sources.get(tensor, {}), **sources}

    # Nodes

    def _node(
        self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any, before: _Versions = ()
    ) -> fx.Node:
        """A node that gives `value`, with nodes in the place of tensors among its arguments.

        `before` are the tensors that it was given: one that it gives back as it was stays known as what it was.
        """
        given, named = map_aggregate((args, kwargs), self._argument)
        node = self.graph.create_node(op, target, given, named)
        set_frame(node, self._frames[-1])
        if op in ("call_function", "call_method"):
            set_place(node, place_in_code())
        same = {id(tensor) for tensor, version in before if version is not None and _version(tensor) == version}
        self._bind(node, value, same)
        return node

    def _bind(self, node: fx.Node, value: Any, same: Collection[int], levels: int = _LEVELS) -> None:
        """Let the tensors in `value`, but for those in `same`, be known as what `node` gives, or as parts of it."""
        set_value(node, _shapes(value))
        if isinstance(value, torch.Tensor):
            if id(value) not in same:
                self._nodes[value] = node
                self._remember(value, node)
            return
        for take, key, part in _parts(value) if levels else ():
            if any(True for _ in _tensors(part, levels - 1)):
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
        if (known := self._nodes.get(tensor)) is not None:
            return known  # type: ignore[no-any-return]
        name = self._weights.get(id(tensor))
        if name is None and (same := self._in_memory(tensor)) is not None and same[2] == _form(tensor):
            # The same numbers by another name, or of another class.
            return same[1]
        if name is None and (sources := self._sources.get(tensor) or self._sharing(tensor) or self._brought(tensor)):
            return self._node("call_function", made_from, tuple(sources), {}, tensor)
        if name is None:
            name = f"_{self._mode}_constant_{len(self.constants)}"
            self.constants[name] = tensor
        return self._node("get_attr", name, (), {}, tensor)

    def _remember(self, tensor: torch.Tensor, node: fx.Node) -> None:
        """Keep what memory a node's value is in, so that nothing else can be there while the model runs."""
        with suppress(NotImplementedError, RuntimeError):
            storage = tensor.untyped_storage()
            if storage.data_ptr():
                self._memory[storage.data_ptr()] = storage, node, _form(tensor)

    def _brought(self, tensor: torch.Tensor) -> tuple[fx.Node, ...]:
        """What a new map may have been made of outside of torch."""
        is_map = tensor.is_floating_point() and tensor.dim() > 2
        return tuple(self._outside) if is_map and id(tensor) not in self._older else ()

    def _sharing(self, tensor: torch.Tensor) -> tuple[fx.Node, ...]:
        """The last node whose value is in a tensor's memory."""
        known = self._in_memory(tensor)
        return () if known is None else (known[1],)

    def _in_memory(self, tensor: torch.Tensor) -> tuple[torch.UntypedStorage, fx.Node, Any] | None:
        with suppress(NotImplementedError, RuntimeError):
            return self._memory.get(tensor.untyped_storage().data_ptr())
        return None


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


def made_from(*sources: torch.Tensor) -> torch.Tensor:
    """What operators make of `sources` that no function of torch's was called for; says what flows where."""
    raise NotImplementedError(f"a recording is not run: {len(sources)} values")


def written(target: torch.Tensor, part: torch.Tensor) -> torch.Tensor:  # noqa: ARG001  # says what flows where
    """`target` after something was written into `part`, a view of it."""
    return target


def _spelling(function: Any) -> tuple[str, Any, bool]:
    """How a graph calls a function of torch: (op, target, whether with its two operands in turn)."""
    if isinstance(function, OpOverload):
        return "call_function", function.overloadpacket, False
    name = str(getattr(function, "__name__", function))
    if name == "__setitem__":
        return "call_function", index_assign, False
    if name.startswith("__") and name.endswith("__"):
        plain = name.strip("_")
        if hasattr(operator, plain):
            return "call_function", getattr(operator, plain), False
        if plain.startswith("r") and hasattr(operator, plain[1:]):
            return "call_function", getattr(operator, plain[1:]), True
        return "call_method", name, False
    if getattr(torch.Tensor, name, None) is function:
        return "call_method", name, False
    return "call_function", function, False


def _attribute(function: Any) -> str | None:
    """The name of the attribute that is read or set, where the function is one's `__get__` or `__set__`."""
    if getattr(function, "__name__", "") not in ("__get__", "__set__"):
        return None
    held = function.__self__
    return str((held.fget if isinstance(held, property) else held).__name__)  # type: ignore[union-attr]


def _in(structure: Any) -> list[torch.Tensor]:
    """The tensors among an operation's arguments or results."""
    return [part for part in tree_leaves(structure) if isinstance(part, torch.Tensor)]


def _form(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()


def _versions(given: Any) -> _Versions:
    return [(tensor, _version(tensor)) for tensor in _in(given)]


def _written(before: _Versions) -> list[torch.Tensor]:
    """What was written into since."""
    return [tensor for tensor, version in before if _version(tensor) != version]


def _version(tensor: torch.Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _shapes(value: Any) -> Any:
    """`to_meta`; a tensor whose kind has no shape (nested, quantized) is a tensor still, but no map."""
    try:
        return to_meta(value)
    except (NotImplementedError, RuntimeError):
        return torch.empty(0, device="meta")


def _tensors(value: Any, levels: int = _LEVELS) -> Iterator[torch.Tensor]:
    """The tensors in a structure of any kind."""
    if isinstance(value, torch.Tensor):
        yield value
    elif levels:
        for _, _, part in _parts(value):
            yield from _tensors(part, levels - 1)


def _parts(value: Any) -> Iterator[tuple[_Function, Any, Any]]:
    """What a value holds, each part with the function and the key that take it."""
    if isinstance(value, (tuple, list)):
        yield from ((operator.getitem, index, part) for index, part in enumerate(value))
    elif isinstance(value, Mapping):
        yield from ((operator.getitem, key, part) for key, part in value.items())
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((getattr, each.name, getattr(value, each.name)) for each in fields(value))
    elif type(getattr(value, "__dict__", None)) is dict and not isinstance(value, (type, nn.Module, FunctionType)):
        yield from ((getattr, name, part) for name, part in vars(value).items())
