"""What the nodes of a graph give, without arithmetic: tensors on the meta device, and the numbers that come of sizes.

Meta tensors hold shapes, strides and dtypes but no data, so nothing is computed and no weight is copied. Parameters are
replaced by meta stand-ins leaf by leaf; statistics that a norm would update in train mode too.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, cast

import torch
from torch import fx, nn
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.utils._pytree import tree_map

from .guards import asks_for_gradients
from .metadata import FOLLOWING, LAYERS, Remembered, following, of_layer
from .nodes import numbers_of, set_numbers, value_of
from .numbers_of_sizes import computed, may_have_numbers, run_on_numbers
from .recurrent import of_one_step
from .regions import is_region

Gradients = Literal["none", "all", "trained"]
_MOVES = ("cpu", "cuda", "xpu", "mps")


class Values:
    """Gives the value of a node of `root`'s graphs whose arguments have theirs.

    Values stay on the meta device whatever the code moves them to; asked for its device, a value answers with the
    device of the model, so that code that decides on it decides as it will when it runs. Asked whether it wants a
    gradient, it answers as in a run without any, as no run would ("all", the contrary), or as in training ("trained").
    """

    def __init__(
        self,
        root: nn.Module,
        constants: Mapping[str, torch.Tensor],
        *,
        gradients: Gradients = "none",
        elsewhere: bool = False,
    ) -> None:
        self._root = root
        self._constants = constants
        self._gradients = gradients
        self._made: dict[int, torch.Tensor] = {}
        # The originals are kept, since an id is another tensor's once its own is gone.
        self._kept: list[torch.Tensor] = []
        held = next((tensor for tensor in (*root.parameters(), *root.buffers())), None)
        self._device = torch.device("cpu") if held is None else held.device
        if elsewhere:
            self._device = torch.device("cpu" if self._device.type == "cuda" else "cuda")

    def stand_in(self, tensor: torch.Tensor) -> torch.Tensor:
        """The meta tensor of a weight or a constant; the same for the same tensor."""
        if id(tensor) not in self._made:
            self._made[id(tensor)] = to_meta(tensor)
            self._kept.append(tensor)
        return self._made[id(tensor)]

    def _held(self, path: str) -> Any:
        value = self._constants.get(path)
        value = value if value is not None else fetch(self._root, path)
        if not isinstance(value, torch.Tensor):
            return value
        # A single number (a stride) keeps its value: code may ask for it, and it goes with tensors of any device.
        return self.stand_in(value) if value.dim() or value.is_meta else value.detach().clone().cpu()

    def of(self, node: fx.Node) -> Any:
        """What `node` gives; errors are those of the operation. The numbers of what comes of sizes alone are noted."""
        if node.op == "get_attr":
            return self._held(str(node.target))
        if node.op == "output":
            return fx.node.map_arg(node.args, value_of)[0]
        if node.op == "call_method" and node.target in _TO_NUMBERS and numbers_of(node.all_input_nodes[0]) is not None:
            return run_on_numbers(node)
        try:
            value = self._given(node, value_of)
        except Exception:
            numbers = computed(node)
            if numbers is None and all(_single(each) is None for each in node.all_input_nodes):
                raise
            # How much it gives is in the numbers, or it wants one (an axis, a length) and is given it as a tensor.
            value = to_meta(self._given(node, _with_numbers) if numbers is None else numbers)
        else:
            numbers = computed(node) if may_have_numbers(value) else None
        set_numbers(node, numbers if isinstance(numbers, torch.Tensor) else None)
        return value

    def _given(self, node: fx.Node, of_input: Callable[[fx.Node], Any]) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), of_input)
        if is_region(node.target):
            return None
        if asks_for_gradients(node):
            return self._wants_gradient(node.all_input_nodes[0])
        if node.target in _OF_A_DEVICE and any(isinstance(arg, torch.device) for arg in args):
            return cast(Any, node.target)(*args)
        module = self._root.get_submodule(str(node.target)) if node.op == "call_module" else None
        # Asking for the device of what is made costs as much as what is done.
        makes_nothing = type(module) in LAYERS or node.target in FOLLOWING
        making = nullcontext() if makes_nothing else torch.device("meta")
        with torch.no_grad(), making:
            if module is not None:
                return self._call_module(module, args, kwargs)
            # A size stays one: `x.new(x.size())` is not `x.new(tuple(x.size()))`.
            args, kwargs = tree_map(_off_device, (args, kwargs), is_leaf=lambda part: type(part) is torch.Size)
            if "device" in kwargs:
                kwargs = {**kwargs, "device": torch.device("meta")}
            if node.target in FOLLOWING:
                return following(node.target, args, kwargs)
            if node.target == "type" and isinstance(args[0], torch.Tensor) and len(args) == 1 and not kwargs:
                return _type_on(self._device, args[0])
            if node.op == "call_method":
                return _call_method(str(node.target), args, kwargs)
            if node.target is getattr and isinstance(args[0], torch.Tensor) and args[1] in DEVICE_FACTS:
                return DEVICE_FACTS[args[1]](self._device)
            # An autograd function may be given the modules that it runs.
            given = [part for each in args if isinstance(each, nn.Module) for part in each.modules()]
            with self._stood_in(given):
                return node.target(*args, **kwargs)  # type: ignore[operator]

    def _wants_gradient(self, node: fx.Node) -> bool:
        if node.op == "get_attr":
            held = bool(getattr(fetch(self._root, str(node.target)), "requires_grad", False))
            return held is (self._gradients != "all")
        if self._gradients != "trained":
            return self._gradients == "all"
        value = value_of(node)
        return (
            node.op != "placeholder" and torch.is_grad_enabled() and (value.is_floating_point() or value.is_complex())
        )

    def _call_module(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Run one leaf on meta stand-ins of its tensors, without its hooks, and leave it as it was."""
        known = of_layer(module, *args) if len(args) == 1 and not kwargs else None
        if known is not None:
            return known
        with self._stood_in(module.modules()), Remembered():
            args, kwargs = as_given(args, kwargs)
            stepped = of_one_step(module, *args, **kwargs) if isinstance(module, nn.RNNBase) else None
            return module.forward(*args, **kwargs) if stepped is None else stepped

    @contextmanager
    def _stood_in(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Let modules hold meta stand-ins of their tensors."""
        held: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for part in modules:
            held.append((part._parameters, dict(part._parameters)))
            held.append((part._buffers, dict(part._buffers)))
            plain = {k: v for k, v in vars(part).items() if isinstance(v, torch.Tensor)}
            if plain:
                held.append((vars(part), plain))
        try:
            for home, tensors in held:
                home.update({k: self.stand_in(v) for k, v in tensors.items() if v is not None})
            yield
        finally:
            for home, tensors in held:
                home.update(tensors)


def _single(node: fx.Node) -> torch.Tensor | None:
    """The number of a tensor without axes that comes of sizes alone."""
    numbers = numbers_of(node)
    return None if numbers is None or numbers.dim() else numbers


def _with_numbers(node: fx.Node) -> Any:
    return value_of(node) if (number := _single(node)) is None else number


def _type_on(device: torch.device, tensor: torch.Tensor) -> str:
    """`tensor.type()` as it is on the model's device: "torch.cuda.HalfTensor"."""
    on_cpu = torch.empty(0, dtype=tensor.dtype, device="cpu").type()
    return on_cpu if device.type == "cpu" else on_cpu.replace("torch.", f"torch.{device.type}.", 1)


# Methods that hand the numbers of a tensor to Python.
_TO_NUMBERS = ("item", "tolist")
# What code asks of a device; whatever else is given one makes something there.
_OF_A_DEVICE = (getattr, str, operator.eq, operator.ne)
DEVICE_FACTS: dict[str, Any] = {
    "device": lambda device: device,
    "is_meta": lambda device: device.type == "meta",
    **{f"is_{kind}": lambda device, kind=kind: device.type == kind for kind in ("cpu", "cuda", "mps", "xpu")},
}


def _call_method(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, *rest = args
    if isinstance(target, torch.Tensor):
        if name in _MOVES:
            return target
        if name == "to" and rest and isinstance(rest[0], str):
            rest[0] = "meta"
        if name.endswith("_") and any(isinstance(part, torch.Tensor) and part.is_meta for part in rest):
            # A single number, which is not known from here on.
            target = target.to("meta")
    method = getattr(type(target), name, None)
    if method in FOLLOWING:
        return following(method, (target, *rest), kwargs)
    return getattr(target, name)(*rest, **kwargs)


def as_given(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A node's arguments as the code of a graph hands them on: its lists and dicts may be changed."""
    return tuple(map(_mutable, args)), {name: _mutable(value) for name, value in kwargs.items()}


def _mutable(value: Any) -> Any:
    if type(value) is immutable_list:
        return [_mutable(part) for part in value]
    if type(value) is immutable_dict:
        return {key: _mutable(part) for key, part in value.items()}
    # Any other list or dict is what a node gave.
    return tuple(map(_mutable, value)) if type(value) is tuple else value


def fetch(root: nn.Module, path: str) -> Any:
    """The attribute of `root` at a dotted path."""
    value: Any = root
    for name in path.split("."):
        value = getattr(value, name)
    return value


def to_meta(value: Any) -> Any:
    """The same structure with meta tensors in the place of tensors."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("meta")
    if isinstance(value, (tuple, list, dict)):
        return tree_map(lambda v: v.detach().to("meta") if isinstance(v, torch.Tensor) else v, value)
    return value


def _off_device(value: Any) -> Any:
    return torch.device("meta") if isinstance(value, torch.device) else value
