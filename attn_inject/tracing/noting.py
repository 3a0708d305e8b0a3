"""The graph of a recording, put down while a model runs: nodes for what was called, in the calls of modules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_map_only

from .contents import LEVELS, Versions, changed, parts, shapes, tensors_given, tensors_held, unchanged, unpacked
from .frames import CallStack
from .nodes import Frame, leaves_torch, note_return, set_frame, set_place, set_value
from .origins import Origins
from .places import place_in_code
from .spelled import attribute, made_from, plain_name, spelling
from .writes import written

# Functions that make a tensor of an array or of numbers.
_FROM_OUTSIDE = (torch.tensor, torch.as_tensor, torch.asarray)
_Function = Callable[..., Any]


class Notes:
    """The nodes of one run of `model` in `mode`, which have the values of the run as shapes.

    `weights` are the paths of parameters and buffers, by their ids.
    """

    def __init__(self, model: nn.Module, mode: str, weights: Mapping[int, str]) -> None:
        self.graph = fx.Graph()
        self.constants: dict[str, torch.Tensor] = {}
        self.stack = CallStack()
        self._mode = mode
        self._weights = weights
        self._origins = Origins(model)

    def ended(self, frame: Frame, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Note what a call was given and gave."""
        self.stack.ended(frame, *self.as_nodes((args, kwargs, output)))
        if isinstance(output, torch.Tensor):
            note_return(self.node_of(output), frame)

    def called(
        self, function: _Function, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, before: Versions
    ) -> None:
        """Note a call of a function of torch, which gave `result`; `before` are the tensors that it was given."""
        name = plain_name(function)
        # What gives nothing back has written into something, which inference tensors do not say.
        into = args[:1] if name == "__setitem__" else changed(before)
        gives = next(iter(into), None) if result is None else result
        if (read := attribute(function)) is not None:
            self._attribute_used(name, read, args, result)
        elif leaves_torch(name, gives):
            self._origins.left(self._call(function, args, kwargs, gives, before).all_input_nodes)
        elif not before and function in _FROM_OUTSIDE and (sources := self._origins.brought(result)):
            self.node("call_function", made_from, sources, {}, gives)
        elif any(True for _ in tensors_held(gives)):
            self._call(function, args, kwargs, gives, before)
        self.written(before, gives)

    def _call(
        self, function: _Function, args: tuple[Any, ...], kwargs: dict[str, Any], gives: Any, before: Versions
    ) -> fx.Node:
        op, target, swapped = spelling(function)
        return self.node(op, target, args[::-1] if swapped else args, kwargs, gives, before)

    def _attribute_used(self, access: str, name: str, args: tuple[Any, ...], result: Any) -> None:
        if access == "__get__" and isinstance(result, torch.Tensor):
            self.node("call_function", getattr, (args[0], name), {}, result)
        elif access == "__set__" and name == "data":
            self._origins.is_given_by(args[0], self.node_of(args[1]))

    def written(self, before: Versions, result: Any) -> None:
        """What was written into, and was not given back, is another value now; so is what it is a view of."""
        given = {id(tensor) for tensor in tensors_held(result)}
        for tensor in changed(before):
            if id(tensor) not in given:
                self.node("call_function", written, (tensor, result), {}, tensor)
            base = tensor._base
            if base is not None and base is not tensor and self._is_known(base):
                self.node("call_function", written, (base, tensor), {}, base)

    def derived(self, made: Any, given: Any) -> None:
        """Note from which nodes the results of an operator come that runs within none."""
        sources = [
            node
            for tensor in tensors_given(given)
            for node in ((self.node_of(tensor),) if self._is_known(tensor) else self._origins.made_of(tensor))
        ]
        for tensor in tensors_given(made):
            self._origins.is_made_of(tensor, sources)

    def _is_known(self, tensor: torch.Tensor) -> bool:
        return tensor in self._origins or id(tensor) in self._weights

    def node(
        self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any, before: Versions = ()
    ) -> fx.Node:
        """A node that gives `value`, with nodes in the place of tensors among its arguments.

        `before` are the tensors that it was given: one that it gives back as it was, among other things, stays known as
        what it was.
        """
        given, named = map_aggregate(unpacked((args, kwargs)), self._argument)
        node = self.graph.create_node(op, target, given, named)
        set_frame(node, self.stack.innermost)
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
                set_frame(inner, self.stack.innermost)
                set_place(inner, place_in_code())
                self._bind(inner, part, same, levels - 1)

    def _argument(self, value: Any) -> Any:
        return self.node_of(value) if isinstance(value, torch.Tensor) else value

    def as_nodes(self, structure: Any) -> Any:
        return tree_map_only(torch.Tensor, self.node_of, unpacked(structure))

    def node_of(self, tensor: torch.Tensor) -> fx.Node:
        """The node that gives a tensor: noted, a weight's, of what is known to have gone into it, or a constant's."""
        name = self._weights.get(id(tensor))
        if (known := self._origins.node_of(tensor)) is not None and (name is None or tensor in self._origins):
            return known
        if name is None and (sources := self._origins.made_of(tensor) or self._origins.brought(tensor)):
            return self.node("call_function", made_from, sources, {}, tensor)
        if name is None:
            name = f"_{self._mode}_constant_{len(self.constants)}"
            self.constants[name] = tensor
        return self.node("get_attr", name, (), {}, tensor)
