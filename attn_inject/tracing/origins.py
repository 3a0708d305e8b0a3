"""Which node of a recording gives a tensor, told by the tensor itself, by its memory, or by what it was made of."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import fx, nn
from torch.utils.weak import WeakTensorKeyDictionary

from .inputs import tensors_in


class Origins:
    """What is known of the tensors of one run of `model`."""

    def __init__(self, model: nn.Module) -> None:
        self._nodes: Any = WeakTensorKeyDictionary()
        self._sources: Any = WeakTensorKeyDictionary()
        self._memory: dict[int, tuple[torch.UntypedStorage, fx.Node, Any]] = {}
        # What code has got as arrays and numbers, of which it may make tensors again; and what tensors it had before.
        self._outside: dict[fx.Node, None] = {}
        self._older = {id(part) for module in model.modules() for part in tensors_in(list(vars(module).values()))}

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return tensor in self._nodes

    def is_given_by(self, tensor: torch.Tensor, node: fx.Node) -> None:
        """Note the tensor as a node's value, and keep its memory, so that nothing else can be there meanwhile."""
        self._nodes[tensor] = node
        with suppress(NotImplementedError, RuntimeError):
            storage = tensor.untyped_storage()
            if storage.data_ptr():
                self._memory[storage.data_ptr()] = storage, node, _form(tensor)

    def node_of(self, tensor: torch.Tensor) -> fx.Node | None:
        """The node that gives the tensor; the same numbers by another name, or of another class, are the same."""
        if (known := self._nodes.get(tensor)) is not None:
            return known  # type: ignore[no-any-return]
        there = self._in_memory(tensor)
        return there[1] if there is not None and there[2] == _form(tensor) else None

    def is_made_of(self, tensor: torch.Tensor, sources: Iterable[fx.Node]) -> None:
        """Note nodes, beside those that are known, from which the tensor comes that none gives."""
        self._sources[tensor] = {**self._sources.get(tensor, {}), **dict.fromkeys(sources)}

    def made_of(self, tensor: torch.Tensor) -> tuple[fx.Node, ...]:
        """Those nodes; without any, the last one in whose memory the tensor is."""
        if sources := self._sources.get(tensor):
            return tuple(sources)
        there = self._in_memory(tensor)
        return () if there is None else (there[1],)

    def left(self, nodes: Iterable[fx.Node]) -> None:
        """Note that code outside of torch has these nodes' numbers."""
        self._outside.update(dict.fromkeys(nodes))

    def brought(self, tensor: torch.Tensor) -> tuple[fx.Node, ...]:
        """Of which of them a new map may have been made there."""
        is_map = tensor.is_floating_point() and tensor.dim() > 2
        return tuple(self._outside) if is_map and id(tensor) not in self._older else ()

    def _in_memory(self, tensor: torch.Tensor) -> tuple[torch.UntypedStorage, fx.Node, Any] | None:
        with suppress(NotImplementedError, RuntimeError):
            return self._memory.get(tensor.untyped_storage().data_ptr())
        return None


def _form(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()
