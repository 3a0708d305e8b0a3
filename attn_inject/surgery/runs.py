"""Real runs of an alias that leave nothing behind: not in the caller's statistics, nor generators, nor hooks."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_map_only

from ..tracing.factories import Draws
from ..tracing.values import fetch

_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem)


class Runs:
    """Runs of an alias, each from the statistics that it has now, under one seed, without gradients.

    With `writes`, where the code writes into its weights, each has weights of its own too.
    """

    def __init__(self, aliased: nn.Module, *, writes: bool = False) -> None:
        self.model = aliased
        self._parameters = [
            (module, name, parameter)
            for module in (aliased.modules() if writes else ())
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        self._buffers = [
            (module, name, buffer)
            for module in aliased.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def statistics(self) -> list[torch.Tensor]:
        """The buffers after the last run."""
        return [module._buffers[name] for module, name, _ in self._buffers]  # type: ignore[misc]

    @contextmanager
    def run(self, mode: str) -> Iterator[None]:
        """Let the alias run in `mode`, on buffers of its own: the caller's stay as they are, and so do generators."""
        own: dict[int, torch.Tensor] = {}
        for module, name, buffer in self._buffers:
            module._buffers[name] = own[id(buffer)] if id(buffer) in own else own.setdefault(id(buffer), buffer.clone())
        weights: dict[int, nn.Parameter] = {}
        for module, name, parameter in self._parameters:
            if id(parameter) not in weights:
                weights[id(parameter)] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            module._parameters[name] = weights[id(parameter)]
        self.model.train(mode=mode == "train")
        with from_one_seed((*self.model.parameters(), *own.values())), torch.no_grad():
            yield


def fresh(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same values in memory of their own, for a model that may write into what it is given."""
    own: tuple[Any, ...] = tree_map_only(torch.Tensor, torch.clone, inputs)
    return own


@contextmanager
def from_one_seed(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Let what runs on the devices of `tensors` draw what every other such run draws, and the caller's draws be.

    Some networks draw in eval mode too: an autoencoder samples around its code.
    """
    devices = {tensor.device.index for tensor in tensors if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)), Draws().undone():
        torch.manual_seed(0)
        yield


def without_hooks(aliased: nn.Module, called: Collection[str] | None = None) -> nn.Module:
    """Take the caller's forward and backward hooks off an alias: they may record what they see.

    With `called`, the paths of modules that a graph calls, those before the others go too, which no graph runs.
    """
    for path, module in aliased.named_modules():
        if called is not None and path not in called:
            module._forward_pre_hooks.clear()
        for hooks in (module._forward_hooks, module._backward_hooks, module._backward_pre_hooks):
            hooks.clear()
    return aliased


def writes_weights(model: nn.Module, graphs: Iterable[fx.Graph]) -> bool:
    """Whether one of its graphs changes a parameter, or a view of it, in place, as forced weight norms do."""
    for graph in graphs:
        of_weights: set[Any] = set()
        for node in graph.nodes:
            if node.op == "get_attr" and isinstance(fetch(model, str(node.target)), nn.Parameter):
                of_weights.add(node)
            elif node.op in ("call_method", "call_function") and node.args and node.args[0] in of_weights:
                name = node.target if isinstance(node.target, str) else node.target.__name__
                if node.target in _IN_PLACE or (name.endswith("_") and not name.endswith("__")):
                    return True
                of_weights.add(node)
    return False
