"""What a model is given: several inputs, named ones, structures of tensors; and which argument takes which."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_map

from .nodes import is_named
from .values import to_meta


@dataclass(frozen=True)
class Inputs:
    """The values that a forward is called with, by position and by name.

    `fixed` are arguments that are no inputs of the graph, with the values that it holds for.
    """

    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.positional or self.named)

    @property
    def values(self) -> tuple[Any, ...]:
        """All of them, in the order of a graph's placeholders."""
        return (*self.positional, *self.named.values())

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The tensors in them, in order."""
        return list(tensors_in(self.values))

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of the first tensor, batch included."""
        return next((tuple(tensor.shape) for tensor in self.tensors), None)

    @property
    def sizes(self) -> str:
        """The shapes of the tensors, for people."""
        return ", ".join(str(tuple(tensor.shape)) for tensor in self.tensors)

    def on_meta(self) -> Inputs:
        """The same on the meta device."""
        return self.map(to_meta)

    def resized(self, times: int, plus: int) -> Inputs:
        """One image more in the batch, each extent so many times what it was and so much more."""
        return self.map(lambda value: tree_map(lambda part: _resized(part, times, plus), value))

    def map(self, change: Callable[[Any], Any]) -> Inputs:
        """The same with each value changed."""
        named = {name: change(value) for name, value in self.named.items()}
        return Inputs(tuple(map(change, self.positional)), named, self.fixed)


NO_INPUTS = Inputs()


def _resized(value: Any, times: int, plus: int) -> Any:
    if not isinstance(value, torch.Tensor) or value.dim() == 0:
        return value
    batch, *rest = value.shape
    return value.new_empty((batch + 1, *rest[:1], *(extent * times + plus for extent in rest[1:])))


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a structure as models take and give them: tuples, lists, dicts, dataclasses, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(tuple(value.values()))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from tensors_in(tuple(getattr(value, field.name) for field in fields(value)))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)


def given_inputs(model: nn.Module, example_inputs: Any) -> Inputs | None:
    """`example_inputs` as people write them: one value, a tuple of values, or a dict of argument names and values.

    A dict whose keys are no names of arguments is one value.
    """
    if example_inputs is None or isinstance(example_inputs, Inputs):
        return example_inputs
    if isinstance(example_inputs, Mapping) and example_inputs:
        parameters = inspect.signature(model.forward).parameters.values()
        names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if set(example_inputs) <= names or any(p.kind is p.VAR_KEYWORD for p in parameters):
            return Inputs(named=dict(example_inputs))
    return Inputs(tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,))


@dataclass(frozen=True)
class Signature:
    """Which arguments of a forward take an input, and which stay at their defaults."""

    positional: tuple[tuple[str, Any], ...]
    named: tuple[tuple[str, Any], ...]
    fixed: Mapping[str, Any]

    @classmethod
    def of(cls, forward: Callable[..., Any], inputs: Inputs | None) -> Signature:
        """Match `inputs` with the arguments; without inputs, those that have no default take one.

        Where all have one, the first takes the image. What has no place is fixed: at the inputs' word, or its default.
        """
        given = inputs or NO_INPUTS
        parameters = list(inspect.signature(forward).parameters.values())
        usual = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        wanted = len(given.positional)
        optional = not given and all(p.default is not p.empty for p in usual)
        if optional and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            wanted = min(len(usual), 1)
        positional: list[str] = []
        named = dict(given.named)
        fixed = dict(given.fixed)
        for p in parameters:
            if p.kind is p.VAR_POSITIONAL:
                # A forward that takes only `*args` still has an image.
                missing = max(wanted, 0 if given.named else 1) - len(positional)
                positional += [f"{p.name}_{len(positional) + i}" for i in range(missing)]
            elif p.kind is p.VAR_KEYWORD or p.name in given.named or p.name in given.fixed:
                continue
            elif p.kind is not p.KEYWORD_ONLY and (p.default is p.empty or len(positional) < wanted):
                positional.append(p.name)
            elif p.default is p.empty and not given:
                named[p.name] = None
            else:
                fixed[p.name] = p.default
        values = (*given.positional, *(None,) * len(positional))
        return cls(tuple(zip(positional, values, strict=False)), tuple(named.items()), fixed)


def arguments_of(graph: fx.Graph, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`values` of a graph's placeholders as what the model's own forward is called with: (positional, named)."""
    places = [node for node in graph.nodes if node.op == "placeholder"]
    pairs = list(zip(places, values, strict=True))
    positional = tuple(value for node, value in pairs if not is_named(node))
    return positional, {str(node.target): value for node, value in pairs if is_named(node)}
