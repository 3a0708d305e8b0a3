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

from ..errors import GuardError, first_line
from ..tracing.alias import alias
from ..tracing.branches import Branches, both_run
from ..tracing.contents import read_out, tensors_held
from ..tracing.inputs import Inputs
from ..tracing.recording import real_inputs
from ..types import Check, Insertion, block_name
from .learning import weighted_sum
from .runs import Runs, without_onlookers
from .sameness import KEEPS, PAIRS, equal_to_the_bit, same_values


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
        gate = _Watched(seen, insertion.module, ours.get_submodule(insertion.module))
        gates.append((block_name(insertion.site.block), gate))
        ours.get_submodule(home)._modules[child] = gate
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
            return Check("calls", passed=False, figure=f"eval: {_ending(error)}"), "", ""
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
    if not wrong and not untried:
        unlike, untried = _trained(original, before, ours, real, gradients=gradients)
        wrong += [f"train: {unlike}"] if unlike else []
    figure = "; ".join(wrong[:4]) or f"{len(wanted)} modules run as planned in eval mode"
    if not expected.outputs and not wrong:
        figure += " (it gives no tensors to compare)"
    elif not wrong and not untried:
        figure += "; train equal to the bit"
    check = Check("calls", passed=not wrong, figure=figure)
    return check, untried, "" if wrong else _not_reached(ours, real, gates)


def _ending(error: Exception) -> str:
    return f"with the new modules in it its own code ends in {first_line(error)} ({PAIRS})"


def _trained(
    original: nn.Module, before: nn.Module, ours: nn.Module, real: Inputs, *, gradients: bool
) -> tuple[str, str]:
    """(how `ours` differs from `before` in train mode, why that was not seen)."""
    try:
        unlike = _unlike_in_train_mode(before, ours, real, gradients=gradients)
    except GuardError as error:
        return "", f"in train mode {first_line(error)}"
    if unlike is None:
        return "", "in train mode its own code does not run on what it was recorded on"
    one, other = (without_onlookers(alias(original)) for _ in range(2))
    if unlike and _unlike_in_train_mode(one, other, real, gradients=gradients):
        return "", "in train mode its own code gives something else each time"
    return unlike, ""


def _unlike_in_train_mode(one: nn.Module, other: nn.Module, real: Inputs, *, gradients: bool) -> str | None:
    """How the other's outputs, statistics and weights differ; empty if they do not.

    None where the first does not run, as without targets.
    """
    try:
        expected = _ran(one, real, "train", gradients=gradients)
    except Exception:
        return None
    try:
        given = _ran(other, real, "train", gradients=gradients)
    except GuardError:
        raise
    except Exception as error:
        return _ending(error)
    unlike = f"it does something else where no gate does anything ({PAIRS})"
    statistics = [(held, given.statistics[name]) for name, held in expected.statistics.items()]
    if not same_values(expected.outputs, given.outputs) or not all(equal_to_the_bit(*pair) for pair in statistics):
        return unlike
    if not expected.keeps:
        return ""
    again = (_ran(each, real, "train", gradients=gradients, calls=2).outputs for each in (one, other))
    return "" if same_values(*again) else unlike


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
