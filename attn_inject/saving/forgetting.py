"""A model whose code keeps something of its last run, as it was before it ran.

A detector may keep a grid and the shape that it is for, and make both anew where another shape comes: an export of it
as it is now would hold for that shape and batch alone.

F1. What is forgotten is what a run at another size changes in the modules, beside parameters and buffers, under a name
    for which their class has a first value.
F2. The model that has forgotten gives what the model gives, to the bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..surgery.runs import Runs, without_onlookers
from ..surgery.sameness import equal_to_the_bit
from ..tracing.alias import alias
from ..tracing.inputs import Inputs, tensors_in


def without_last_run(patched: nn.Module, inputs: Inputs) -> nn.Module | None:
    """An alias of the model that has forgotten its last run; None if there is nothing to forget.

    `inputs` are real ones that it takes.
    """
    before, runs_again, forgotten = (alias(patched) for _ in range(3))
    earlier = [dict(vars(module)) for module in runs_again.modules()]
    try:
        # Three times the size divides as the size does.
        _, later = _given(runs_again, inputs.on_meta().resized(3, 0).real(inputs.tensors[0].device))
    except Exception:  # It takes no other size, so that none can be wanted.
        return None
    changed = False
    for module, now, held in zip(forgotten.modules(), later, earlier, strict=True):
        for name in _first_values(type(module)) & held.keys():
            if now.get(name) is not held[name]:
                del vars(module)[name]
                changed = True
    if not changed:
        return None
    # A run makes it remember again.
    (wanted, _), (given, _) = _given(before, inputs), _given(alias(forgotten), inputs)
    pairs = zip(wanted, given, strict=True)
    return forgotten if all(equal_to_the_bit(*pair) for pair in pairs) else None


def _first_values(kind: type) -> set[str]:
    """The names that the model's own classes have values for."""
    own = kind.__mro__[: kind.__mro__.index(nn.Module)]
    return {name for each in own for name in vars(each)}


def _given(model: nn.Module, inputs: Inputs) -> tuple[list[torch.Tensor], list[dict[str, Any]]]:
    """(what the model gives, what each of its modules has after that)."""
    with Runs(without_onlookers(model)).run("eval"), torch.no_grad():
        given = list(tensors_in(inputs.given_to(model)))
        return given, [dict(vars(module)) for module in model.modules()]
