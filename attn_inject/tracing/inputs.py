"""What a model is given: several inputs, named ones, structures of tensors; and which argument takes which."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_map, tree_map_only, tree_structure

from ..errors import TraceError
from .given_numbers import numbers_of, whole_numbers, with_numbers
from .nodes import has_value, is_named, value_of


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

    @property
    def batch(self) -> int:
        """How many there are of each: the first extent of the first tensor that has one."""
        return next((tensor.shape[0] for tensor in self.tensors if tensor.dim()), 1)

    def with_batch(self, number: int) -> Inputs:
        """So many of each, on the meta device: the tensors whose first extent is the batch's get another one."""
        batch = self.batch

        def sized(tensor: torch.Tensor) -> torch.Tensor:
            is_batched = tensor.dim() > 0 and tensor.shape[0] == batch
            shape = (number, *tensor.shape[1:]) if is_batched else tensor.shape
            return with_numbers(torch.empty(shape, dtype=tensor.dtype, device="meta"), numbers_of(tensor, batch))

        return self.map_tensors(sized)

    def real(self, device: torch.device, dtype: torch.dtype | None = None) -> Inputs:
        """The same sizes with real values, as `real_values` makes them."""
        values = real_values(self.values, device, dtype)
        count = len(self.positional)
        return Inputs(values[:count], dict(zip(self.named, values[count:], strict=True)), self.fixed)

    def fit_one_graph_with(self, other: Inputs) -> bool:
        """Whether a graph made with one of them has a place for the other: the same but for the tensors' sizes."""
        return self.fixed == other.fixed and all(
            tree_structure(one) == tree_structure(another)
            for one, another in ((self.positional, other.positional), (dict(self.named), dict(other.named)))
        )

    def given_to(self, model: Callable[..., Any]) -> Any:
        """What `model` gives for them."""
        return model(*self.positional, **self.named, **self.fixed)

    def fresh(self) -> Inputs:
        """`fresh` of all of them."""
        return self.map(fresh)

    def on_meta(self) -> Inputs:
        """The same on the meta device, which knows the numbers of those that are not floating-point."""
        batch = self.batch
        return self.map_tensors(lambda tensor: with_numbers(tensor.detach().to("meta"), numbers_of(tensor, batch)))

    def resized(self, times: int, plus: int) -> Inputs:
        """One image more in the batch, each extent so many times what it was and so much more."""
        return self.map(lambda value: tree_map(lambda part: _resized(part, times, plus), value))

    def map(self, change: Callable[[Any], Any]) -> Inputs:
        """The same with each value changed."""
        named = {name: change(value) for name, value in self.named.items()}
        return Inputs(tuple(map(change, self.positional)), named, self.fixed)

    def in_type(self, dtype: torch.dtype) -> Inputs:
        """The same with what is floating-point in another type."""
        return self.map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)

    def map_tensors(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
        """The same with each tensor changed, in structures too."""
        return self.map(lambda value: tree_map_only(torch.Tensor, change, value))


NO_INPUTS = Inputs()


def fresh(values: Any) -> Any:
    """The same values in memory of their own, in structures too, for a model that may write into what it is given."""
    return tree_map_only(torch.Tensor, torch.clone, values)


def image(*size: int, dtype: torch.dtype = torch.float32) -> Inputs:
    """One image of (channels, *spatial), on the meta device."""
    return Inputs((torch.empty(1, *size, dtype=dtype, device="meta"),))


def real_values(values: tuple[Any, ...], device: torch.device, dtype: torch.dtype | None = None) -> tuple[Any, ...]:
    """Values of the same sizes to run on: normal ones for maps, in `dtype` if given; the caller's own whole numbers.

    Of whole numbers that nobody gave, zeros are indices, masks and switches that every model takes; and in floating
    point numbers below 1, for what is no map: code may make indices of them, which compiled code does not check. The
    same sizes give the same values.
    """
    generator = torch.Generator().manual_seed(0)
    images = Inputs(values).batch

    def real(value: torch.Tensor) -> torch.Tensor:
        if value.is_floating_point():
            draw = torch.randn if value.dim() > 2 else torch.rand
            return draw(value.shape, generator=generator, device="cpu").to(device=device, dtype=dtype or value.dtype)
        return whole_numbers(value, images).to(device, copy=True)

    return tuple(tree_map_only(torch.Tensor, real, value) for value in values)


def dtype_of(model: nn.Module) -> torch.dtype:
    """The floating-point type of the model's first parameter that has one."""
    return next((value.dtype for value in model.parameters() if value.is_floating_point()), torch.float32)


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


def chosen_arguments(forward: Callable[..., Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `fixed` that are no defaults of `forward`, which may have no name to be given by."""
    own = inspect.signature(forward).parameters
    return {name: value for name, value in fixed.items() if name not in own or own[name].default is not value}


def tensor_paths(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in a structure of tuples, lists and dicts, each with its place: `batch.image`, `maps.0`."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, (Mapping, tuple, list)):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from tensor_paths(f"{name}.{key}" if name else str(key), part)


def given_inputs(model: nn.Module, example_inputs: Any) -> Inputs | None:
    """`example_inputs` as people write them: one value, a tuple of values, or a dict of argument names and values.

    A dict none of whose keys is the name of an argument is one value.
    """
    if example_inputs is None or isinstance(example_inputs, Inputs):
        return example_inputs
    if isinstance(example_inputs, Mapping) and example_inputs:
        parameters = inspect.signature(model.forward).parameters.values()
        names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if names & set(example_inputs) or any(p.kind is p.VAR_KEYWORD for p in parameters):
            return Inputs(named=dict(example_inputs))
    return Inputs(tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,))


def must_fit(model: nn.Module, inputs: Inputs | None) -> None:
    """Refuse inputs with which nobody could call the model.

    Raises:
        TraceError: one too many or too few, or one whose name no argument has.

    """
    if inputs is None:
        return
    own = inspect.signature(model.forward)
    # What is called may be a decorator's, which gives the forward more than it is given.
    called = inspect.signature(model.forward, follow_wrapped=False)
    try:
        own.bind_partial(*inputs.positional)
        called.bind(*inputs.positional, **inputs.named, **inputs.fixed)
    except TypeError as error:
        arguments = ", ".join(own.parameters)
        raise TraceError(
            f"example_inputs do not fit {type(model).__name__}.forward({arguments}): {error}; "
            "pass a tuple with one value for each, or a dict of their names"
        ) from None


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
            elif given and p.default is p.empty and (p.kind is p.KEYWORD_ONLY or len(positional) >= wanted):
                # A decorator gives it (`must_fit`).
                continue
            elif p.kind is not p.KEYWORD_ONLY and (p.default is p.empty or len(positional) < wanted):
                positional.append(p.name)
            elif p.default is p.empty and not given:
                named[p.name] = None
            else:
                fixed[p.name] = p.default
        values = (*given.positional, *(None,) * len(positional))
        return cls(tuple(zip(positional, values, strict=False)), tuple(named.items()), fixed)


def input_values(graph: fx.Graph) -> tuple[Any, ...] | None:
    """What a graph was traced on, on the meta device, one for each placeholder; None where no shapes are known."""
    places = [node for node in graph.nodes if node.op == "placeholder"]
    return tuple(map(value_of, places)) if all(map(has_value, places)) else None


def inputs_of(graph: fx.Graph) -> Inputs | None:
    """The same as what the model's own forward is called with."""
    values = input_values(graph)
    return None if values is None else Inputs(*arguments_of(graph, values))


def arguments_of(graph: fx.Graph, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`values` of a graph's placeholders as what the model's own forward is called with: (positional, named)."""
    places = [node for node in graph.nodes if node.op == "placeholder"]
    pairs = list(zip(places, values, strict=True))
    positional = tuple(value for node, value in pairs if not is_named(node))
    return positional, {str(node.target): value for node, value in pairs if is_named(node)}
