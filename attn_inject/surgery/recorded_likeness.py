"""Whether a part to which attention was attached by a recording does what was planned, seen on real runs.

L2. Each new module runs as often as planned, on maps of the planned width, and with modules around them that give
    back what they get the part gives what it gave; in train mode too, where it runs on the same inputs. Their weights
    are there all the same: code may go over those of two parts in pairs, and then wants attention in both or in none.
L3. A gradient comes back from what the part gives to what each new module gives; where none does, that is said: what a
    detector's eval mode cuts off, its losses may reach.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from ..errors import first_line
from ..tracing.alias import alias
from ..tracing.branches import Branches, both_run
from ..tracing.contents import read_out, tensors_held
from ..tracing.inputs import Inputs
from ..tracing.recording import real_inputs
from ..types import Check, Insertion, block_name
from .learning import weighted_sum
from .runs import Runs, without_onlookers
from .sameness import KEEPS, equal_to_the_bit, same_values

_PAIRS = "code that goes over the weights of two parts in pairs wants attention in both"


class _Watched(nn.Module):
    """Gives back what it gets, and notes how wide it is; where gradients are kept, it shows whether one comes back.

    `held` is the module in whose place it is.
    """

    def __init__(self, seen: Counter[tuple[str, int]], name: str, held: nn.Module) -> None:
        super().__init__()
        self.seen = (seen,)
        self.name = name
        self.held = held
        # No parameter, in whose place a run puts another.
        self.factor = (torch.ones((), requires_grad=True, device="cpu"),)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen[0][self.name, x.shape[1]] += 1
        return x * self.factor[0] if torch.is_grad_enabled() else x


def as_recorded(
    original: nn.Module, inputs: Inputs, part: nn.Module, new: Sequence[Insertion]
) -> tuple[Check, str, str]:
    """(L2, why it was not seen in train mode, what L3 does not show) of `part`, which `attach` made from `original`.

    `inputs` are what a run is at hand on.
    """
    ours, before = without_onlookers(alias(part)), without_onlookers(alias(original))
    seen: Counter[tuple[str, int]] = Counter()
    gates: list[tuple[str, _Watched]] = []
    for insertion in new:
        home, _, child = insertion.module.rpartition(".")
        places = ours.get_submodule(home)._modules
        gates.append(
            (block_name(insertion.site.block), _Watched(seen, insertion.module, ours.get_submodule(insertion.module)))
        )
        places[child] = gates[-1][1]
    real = real_inputs(inputs, before)
    gradients = False
    try:
        expected, given = _ran(before, real), _ran(ours, real)
    except Exception:  # Its code may ask for gradients itself.
        seen.clear()
        gradients = True
        expected = _ran(before, real, gradients=True)
        try:
            given = _ran(ours, real, gradients=True)
        except Exception as error:
            figure = f"with the new modules in it its own code ends in {first_line(error)} ({_PAIRS})"
            return Check("calls", passed=False, figure=figure), "", ""
    wanted = {(insertion.module, insertion.channels): insertion.site.calls for insertion in new}
    wrong = [f"{name} ran {seen[name, width]} times" for (name, width), n in wanted.items() if seen[name, width] != n]
    untried = ""
    if not same_values(expected.outputs, given.outputs):
        again = _ran(without_onlookers(alias(original)), real, gradients=gradients)
        if same_values(expected.outputs, again.outputs):
            wrong.append("it gives something else where no gate does anything")
        else:
            untried = "its own code gives something else each time"
    elif expected.keeps and not same_values(
        *(_ran(each, real, gradients=gradients, calls=2).outputs for each in (before, ours))
    ):
        wrong.append(f"eval: {KEEPS}")
    if not wrong and not untried and not (trained := _alike_in_train_mode(before, ours, real, gradients=gradients)):
        one, other = (without_onlookers(alias(original)) for _ in range(2))
        if trained is None:
            untried = "in train mode its own code does not run on what it was recorded on"
        elif not _alike_in_train_mode(one, other, real, gradients=gradients):
            untried = "in train mode its own code gives something else each time"
        else:
            wrong.append(f"it does something else in train mode where no gate does anything ({_PAIRS})")
    figure = "; ".join(wrong[:4]) or f"{len(wanted)} modules run as planned in eval mode"
    if not expected.outputs and not wrong:
        figure += " (it gives no tensors to compare)"
    elif not wrong and not untried:
        figure += "; train equal to the bit"
    check = Check("calls", passed=not wrong, figure=figure)
    return check, untried, "" if wrong else _not_reached(ours, real, gates)


def _alike_in_train_mode(one: nn.Module, other: nn.Module, real: Inputs, *, gradients: bool) -> bool | None:
    """Whether both give the same, outputs and statistics; None where the first does not run, as without targets."""
    try:
        expected = _ran(one, real, "train", gradients=gradients)
    except Exception:
        return None
    try:
        given = _ran(other, real, "train", gradients=gradients)
    except Exception:
        return False
    statistics = [(held, given.statistics[name]) for name, held in expected.statistics.items()]
    if not same_values(expected.outputs, given.outputs) or not all(equal_to_the_bit(*pair) for pair in statistics):
        return False
    if not expected.keeps:
        return True
    return same_values(*(_ran(each, real, "train", gradients=gradients, calls=2).outputs for each in (one, other)))


def _not_reached(ours: nn.Module, real: Inputs, gates: Sequence[tuple[str, _Watched]]) -> str:
    """L3: the blocks to whose gates no gradient comes back, or why none does; empty where one comes to all."""
    try:
        # What is run again within a backward pass runs as it did, and `inputs` are nothing for such a checkpoint.
        with Runs(ours, writes=True).run("eval", gradients=True), Branches(both_run):
            total = weighted_sum(tensors_held(read_out(real.fresh().given_to(ours))))
            if total is None:
                return "what it gives in eval mode has no gradient"
            total.backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # It may hand its map to numpy, or write where a backward pass reads.
        return f"no backward pass runs in eval mode ({first_line(error)})"
    lost = [block for block, gate in gates if gate.factor[0].grad is None]
    return f"none comes to {', '.join(lost[:4])} from what it gives in eval mode" if lost else ""


class _Ran(NamedTuple):
    """What the last call gives, buffers and weights after it, and whether the model keeps something between calls."""

    outputs: list[torch.Tensor]
    statistics: Mapping[str, torch.Tensor]
    keeps: bool


def _ran(model: nn.Module, real: Inputs, mode: str = "eval", *, gradients: bool = False, calls: int = 1) -> _Ran:
    # No graph tells whether it writes into its weights.
    runs = Runs(model, writes=True)
    with runs.run(mode, gradients=gradients), Branches(both_run):
        for _ in range(calls):
            given = read_out(real.fresh().given_to(model))
    held = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    return _Ran(list(tensors_held(given)), held, runs.keeps)
