"""Weights that code has in its hands: `parameters()` and the tables of modules give them as they are, not as proxies.

What torch's functions make of them is of the graph all the same, and so is what they write into them: it would be done
once, while the model is read, in the caller's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import nn

from .contents import memory_of, tensors_given
from .proxies import Unfollowable
from .spelled import attribute, spelling, writing_method, written_into
from .values import DEVICE_FACTS

# What of a weight is another thing when the model has been moved or cast.
_PLACES = frozenset({"dtype", *DEVICE_FACTS})


class HeldWeights:
    """The parameters and buffers of `skeleton`, whose paths are in `names` by their ids.

    `constants` are names too, of tensors whose numbers are the model's own. `record` makes a node, which has its value
    if `knows_values`.
    """

    def __init__(
        self,
        skeleton: nn.Module,
        names: Mapping[int, str],
        constants: Collection[str],
        record: Callable[..., Any],
        *,
        knows_values: bool,
    ) -> None:
        self._skeleton = skeleton
        self._names = names
        self._constants = constants
        self._record = record
        self._knows_values = knows_values

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function of torch that is given no proxy; a node, if it makes something of weights or writes into one.

        Raises:
            Unfollowable: it writes into weights in a way that no graph can.

        """
        into = written_into(function, args, kwargs)
        if into and not self._storages.isdisjoint(map(memory_of, into)):
            method = writing_method(function)
            if method is None or len(into) > 1 or not self._is_one(into[0]):
                raise Unfollowable("it writes into its weights past the modules that hold them")
            return self._record("call_method", method, args, kwargs)
        result = function(*args, **kwargs)
        if (read := attribute(function)) in _PLACES and self._knows_values and self._is_one(args[0]):
            # Where the model is and of what type may be another when the graph runs.
            return self._record("call_function", getattr, (args[0], read), {})
        if not any(map(self._is_one, tensors_given((args, kwargs)))) or not tensors_given(result):
            return result
        if read is not None:
            return self._record("call_function", getattr, (args[0], read), {})
        op, target, swapped = spelling(function)
        return self._record(op, target, args[::-1] if swapped else args, kwargs)

    def _is_one(self, tensor: torch.Tensor) -> bool:
        name = self._names.get(id(tensor))
        return name is not None and name not in self._constants

    @cached_property
    def _storages(self) -> frozenset[int | None]:
        held = (*self._skeleton.parameters(), *self._skeleton.buffers())
        return frozenset(map(memory_of, held)) - {None}
