"""From an `nn.Module` to its `Trace`: the `torch.fx` graphs of both modes, every node knowing its block and its value.

What plain `torch.fx.symbolic_trace` would lose or break, and what is done here:

1. Leaves (`leaves.py`). Besides `torch.nn` and classes marked `traced_whole`, the modules and functions that timm
   registers as untraceable stay whole (only where timm is loaded at all). A registered module that holds convolutions
   is traced into when it can be: it may contain block ends.
2. The caller's model is never touched. Tracing runs on an alias: the same classes and the same weight storage in new
   modules (`aliasing`), so that modes, constants and statistics of the original stay as they are.
3. Buffers are read at run time, not frozen into the graph, so that loading a state dict later has its effect.
4. Arguments with a default keep that default; a proxy in their place would take the wrong side of `if mask is None`.
   `Trace.fixed_arguments` names them.
5. Constants are found by identity in constant time, and live beside the graph instead of on the model.
6. In-place code stays in-place, and later reads of the changed value are reads of the change (`proxies.py`): plain fx
   turns `x += y` into an out-of-place add, and loses `x.add_(y)` and `x[:, :c] += y` from the data flow.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from .alias import alias
from .explain import explained
from .leaves import Leaves
from .nodes import note_return, set_frame
from .proxies import FollowingProxy, WeightProxy

MODES = ("eval", "train")


@dataclass(frozen=True)
class Trace:
    """A model's graphs.

    `skeleton` is an alias of the model (same weights, own modules) that the graphs refer to; `graphs` maps "train" and
    "eval" to a graph; `constants` maps the attribute names of tensors that neither parameters nor buffers hold.
    """

    skeleton: nn.Module
    graphs: dict[str, fx.Graph]
    constants: dict[str, torch.Tensor]
    inputs: tuple[Any, ...] = ()
    fixed_arguments: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of the first tensor input, batch included."""
        return next((tuple(x.shape) for x in self.inputs if isinstance(x, torch.Tensor)), None)


def trace(
    model: nn.Module,
    *,
    inputs: tuple[Any, ...] = (),
    modes: Sequence[str] = MODES,
    whole: Collection[str] = (),
) -> Trace:
    """Trace `model` in each of `modes`. Shapes are not yet known: see `shapes.annotate`.

    `whole` are paths of submodules that stay single calls, beside those that `Leaves` knows.

    Raises:
        TraceError: naming the line at which the model cannot be followed.

    """
    skeleton = alias(model)
    leaves = Leaves()
    leaves.keep_whole(skeleton.get_submodule(path) for path in whole)
    graphs: dict[str, fx.Graph] = {}
    constants: dict[str, torch.Tensor] = {}
    fixed: tuple[str, ...] = ()
    training = {module: module.training for module in skeleton.modules()}
    try:
        for mode in modes:
            skeleton.train(mode=mode == "train")
            tracer = _trace_once(skeleton, leaves, len(inputs), mode)
            graphs[mode] = tracer.graph
            constants.update(tracer.constants)
            fixed = tracer.fixed_arguments
    finally:
        for module, flag in training.items():
            module.training = flag
    return Trace(skeleton, graphs, constants, inputs, fixed)


def _trace_once(skeleton: nn.Module, leaves: Leaves, arguments: int, mode: str) -> _Tracer:
    while True:
        tracer = _Tracer(skeleton, leaves, arguments, mode)
        try:
            with _private_buffers(skeleton, tracer):
                tracer.trace(skeleton)
            return tracer
        except Exception as error:
            culprit = next((m for m in reversed(tracer.open_modules) if leaves.can_close(m)), None)
            if culprit is None:
                raise explained(skeleton, error, _traces_quietly) from error
            leaves.close(culprit)


class _Tracer(fx.Tracer):
    """Records for every node the module whose `forward` runs it (`meta["block"]`) and the call (`meta["call"]`)."""

    proxy_buffer_attributes = True

    def __init__(self, skeleton: nn.Module, leaves: Leaves, arguments: int, mode: str) -> None:
        super().__init__(autowrap_functions=leaves.functions)
        self.leaves = leaves
        self.arguments = arguments
        self.mode = mode
        self.constants: dict[str, torch.Tensor] = {}
        self.fixed_arguments: tuple[str, ...] = ()
        self.open_modules: list[nn.Module] = []
        self._frames: list[tuple[str, int]] = [("", 0)]
        self._entries: Counter[str] = Counter()
        self._names: dict[int, str] = {}
        self._index(skeleton)

    def _index(self, skeleton: nn.Module) -> None:
        for name, module in skeleton.named_modules():
            self._names[id(module)] = name
        for name, parameter in skeleton.named_parameters():
            self._names[id(parameter)] = name

    def index_buffers(self, buffers: Mapping[str, torch.Tensor]) -> None:
        for name, buffer in buffers.items():
            self._names.setdefault(id(buffer), name)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self.leaves.is_leaf(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            return self.create_proxy("call_module", path, args, kwargs)
        self._frames.append((path, self._entries[path]))
        self._entries[path] += 1
        self.open_modules.append(m)
        with _without_hooks(m):
            value = forward(*args, **kwargs)
        # Not in a `finally`: after an error the open modules tell where tracing stopped.
        self.open_modules.pop()
        frame = self._frames.pop()
        if isinstance(value, fx.Proxy):
            note_return(value.node, frame)
        return value

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        set_frame(node, self._frames[-1])
        return node

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,  # noqa: ARG002, FBT001  # torch's own signature
        concrete_args: Any = None,  # noqa: ARG002
    ) -> tuple[Callable[..., Any], list[Any]]:
        # An instance may override `forward`; `root_fn` is the class's.
        forward = self.root.forward if "forward" in vars(self.root) else root_fn.__get__(self.root)
        proxies: list[Any] = []
        fixed: list[str] = []
        for parameter in inspect.signature(forward).parameters.values():
            wanted = len(proxies) < self.arguments
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                # A forward that takes only `*args` still has an image.
                while parameter.kind is parameter.VAR_POSITIONAL and len(proxies) < max(self.arguments, 1):
                    proxies.append(self._placeholder(f"{parameter.name}_{len(proxies)}"))
            elif parameter.kind is not parameter.KEYWORD_ONLY and (parameter.default is parameter.empty or wanted):
                proxies.append(self._placeholder(parameter.name))
            else:
                fixed.append(f"{parameter.name}={parameter.default!r}")
        self.fixed_arguments = tuple(fixed)

        def call(_root: nn.Module, *values: Any) -> Any:
            return forward(*values)

        call.__annotations__ = {}
        return call, [self.root, *proxies]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return FollowingProxy(node, self)

    def _placeholder(self, name: str) -> fx.Proxy:
        return self.create_proxy("placeholder", name, (), {})

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:  # noqa: ARG002
        if isinstance(attr_val, torch.Tensor) and (name := self._names.get(id(attr_val))) is not None:
            if name not in parameter_proxy_cache:
                node = self.create_node("get_attr", name, (), {})
                parameter_proxy_cache[name] = WeightProxy(node, self, attr_val)
            return parameter_proxy_cache[name]
        return attr_val

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, (torch.Tensor, nn.Module)) and (name := self._names.get(id(a))) is not None:
            return self.create_node("get_attr", name, (), {})
        if isinstance(a, torch.Tensor):
            name = f"_{self.mode}_constant_{len(self.constants)}"
            self.constants[name] = a
            self._names[id(a)] = name
            return self.create_node("get_attr", name, (), {})
        return super().create_arg(a)


@contextmanager
def _without_hooks(module: nn.Module) -> Iterator[None]:
    """Hooks would run on proxies, at trace time, with whatever side effects they have on their owner."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    kept = {name: getattr(module, name) for name in names if getattr(module, name, None)}
    if not kept:
        yield
        return
    for name in kept:
        setattr(module, name, type(kept[name])())
    try:
        yield
    finally:
        for name, hooks in kept.items():
            setattr(module, name, hooks)


@contextmanager
def _private_buffers(skeleton: nn.Module, tracer: _Tracer) -> Iterator[None]:
    """Put clones in the place of buffers: code that updates one while it is traced must not update the caller's."""
    swapped: list[tuple[nn.Module, str, torch.Tensor]] = []
    clones: dict[int, torch.Tensor] = {}
    named: dict[str, torch.Tensor] = {}
    for path, module in skeleton.named_modules():
        if tracer.is_leaf_module(module, path) or isinstance(module, torch.jit.ScriptModule):
            continue
        for name, buffer in module._buffers.items():
            if buffer is not None:
                clone = clones.setdefault(id(buffer), buffer.clone())
                swapped.append((module, name, buffer))
                module._buffers[name] = clone
                named.setdefault(f"{path}.{name}" if path else name, clone)
    tracer.index_buffers(named)
    try:
        yield
    finally:
        for module, name, buffer in swapped:
            module._buffers[name] = buffer


def _traces_quietly(module: nn.Module) -> bool:
    aliased = alias(module)
    aliased.eval()
    leaves = Leaves()
    tracer = _Tracer(aliased, leaves, 0, "eval")
    try:
        with _private_buffers(aliased, tracer):
            tracer.trace(aliased)
    except Exception:
        return False
    # A scope takes and gives maps; something that only collects other modules has no placeholder to patch behind.
    return any(node.op == "placeholder" for node in tracer.graph.nodes)
