"""Names that a patched model needs for itself: a model that has something else under one of them is refused."""

from __future__ import annotations

from torch import fx, nn

from ..errors import PlanError
from ..types import Injection

_RECORD = "injection"


def must_leave_room(model: nn.Module) -> None:
    """Refuse a model with an `injection` of its own, where the record of what was put in stands.

    Raises:
        PlanError: it has one.

    """
    if hasattr(type(model), _RECORD) or not isinstance(_held(model).get(_RECORD), Injection | None):
        raise PlanError(
            f"this {type(model).__name__} has an attribute {_RECORD!r} of its own, where the record of what is "
            "put in would stand: give it another name"
        )


def must_not_be_hidden(part: nn.Module) -> None:
    """Refuse to make a graph of a part with children or tensors that `fx.GraphModule` would hide.

    Raises:
        PlanError: names one, and the way out.

    """
    own = {**part._modules, **part._parameters, **part._buffers}
    for name in own:
        if name == "meta" or (hasattr(fx.GraphModule, name) and not hasattr(nn.Module, name)):
            raise PlanError(
                f"{type(part).__name__} holds something by the name {name!r}, which torch.fx.GraphModule has "
                "for itself and would give instead: use attach(), which makes no graph, or give it another name"
            )


def _held(model: nn.Module) -> dict[str, object]:
    return {**model._buffers, **model._parameters, **model._modules, **vars(model)}
