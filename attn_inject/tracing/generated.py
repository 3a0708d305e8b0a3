"""A `GraphModule` as a block whose forward is rewritten.

torch makes the code of one anew from its graph, whenever it is copied, pickled or recompiled, in a class that every
instance has for itself: the attention would be gone.
"""

from __future__ import annotations

import copy
from typing import Any, NoReturn

from torch import fx, nn

from ..errors import PlanError


def kept_as_rewritten(base: type[nn.Module]) -> dict[str, Any]:
    """The methods that a subclass of `base` with another forward needs beside it: of a `GraphModule`, what keeps it."""
    if not issubclass(base, fx.GraphModule):
        return {}
    copies = {"__copy__": _shallow, "__deepcopy__": _copied}
    return {**copies, "__reduce_ex__": _not_here, "recompile": _not_here, "delete_all_unused_submodules": _not_here}


def _shallow(self: nn.Module) -> nn.Module:
    made = object.__new__(type(self))
    vars(made).update(vars(self))
    return made


def _copied(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
    made = object.__new__(type(self))
    memo[id(self)] = made
    vars(made).update(copy.deepcopy(vars(self), memo))
    return made


def _not_here(self: nn.Module, *_: Any) -> NoReturn:
    """Say what would lose the attention.

    Raises:
        PlanError: always; says what to do instead.

    """
    raise PlanError(
        f"this {type(self).__name__} has attention in code that is not that of its graph: write the whole model with "
        "save(), or detach() it before its code is made anew"
    )
