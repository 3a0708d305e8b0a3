"""Whether an attached part does what `inject` makes of it, seen on real passes before it is handed out.

L1. In eval mode and, under one seed, in train mode it gives what the graph gives, to the bit, outputs and statistics,
    with new modules whose weights are random, so that every gate does something.
    And with modules in their place that give back what they get it gives what the model's own code gave: a graph may be
    wrong about that, and a forward that is written from it then too.
Where there is no graph to compare with: `recorded_likeness`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import first_line
from ..tracing.alias import alias
from ..tracing.injected import InjectedModule
from ..tracing.inputs import Inputs, arguments_of, chosen_arguments, fresh, input_values, real_values, tensors_in
from ..tracing.trace import MODES
from ..types import Check, Insertion
from .recorded_likeness import as_recorded
from .runs import Runs, without_onlookers, writes_weights
from .sameness import KEEPS, equal_to_the_bit, same_values
from .small_passes import doubled, size_of, smaller

_FAINT = 1e-2


@dataclass(frozen=True)
class Likeness:
    """What was compared, with its figure, and what could not be, each with the reason.

    `unproven` says what is not known of the gradients of a part without a graph.
    """

    check: Check | None = None
    untried: tuple[str, ...] = ()
    unproven: str = ""


def likeness(
    original: nn.Module,
    inputs: Inputs,
    part: nn.Module,
    new: Sequence[Insertion],
    graph: InjectedModule | None,
    *,
    own: bool = True,
) -> Likeness:
    """Compare `part`, which `attach` made from `original`, with `graph`, which `inject` makes of it, and, with `own`,
    with the model's own code.

    `inputs` are what it was read on, `new` what was put in now. A model that has shapes only is not compared.
    """
    if any(tensor.is_meta for tensor in (*part.parameters(), *part.buffers())):
        return Likeness(untried=("the model has shapes only",))
    if graph is None:
        check, untried, unproven = as_recorded(original, inputs, part, new)
        return Likeness(check, (untried,) if untried else (), unproven)
    return _as_the_graph(original, part, new, graph, own=own)


def _as_the_graph(
    original: nn.Module, part: nn.Module, new: Sequence[Insertion], graph: InjectedModule, *, own: bool
) -> Likeness:
    hint = "; use inject" if own else ""
    writes = writes_weights(graph, map(graph.graph_of, MODES))

    def runs_of(model: nn.Module) -> list[Runs]:
        """Without the hooks that it can do without, then with them."""
        return [Runs(each, writes=writes) for each in (without_onlookers(alias(model)), alias(model))]

    trials, theirs = runs_of(part), Runs(without_onlookers(alias(graph)), writes=writes)
    _let_gates_do_something(new, *(each.model for each in (*trials, theirs)))
    # Where something was displaced, or attention taken over, nothing gives what the model gave.
    added = not graph.displaced and not any(insertion.site.kind == "attention" for insertion in new)
    before = runs_of(original)
    after = runs_of(_letting_through(alias(part), new)) if added and own else []
    chosen = chosen_arguments(original.forward, graph.fixed)
    device = next((tensor.device for tensor in graph.parameters()), torch.device("cpu"))
    figures: list[str] = []
    untried: list[str] = []
    for mode in MODES:
        pristine = graph.pristine_graph_of(mode)
        ended = ""
        for shapes in _shapes(graph, mode):
            values = real_values(shapes, device)
            try:
                given_to_graph = Inputs(*arguments_of(pristine, fresh(values)), graph.fixed)
                with theirs.run(mode):
                    expected = list(tensors_in(given_to_graph.given_to(theirs.model)))
            except Exception as error:  # Too small, or of another size than the network is made for.
                ended = f"{type(error).__name__}: {first_line(error)}"
                continue
            args, kwargs = arguments_of(pristine, values)
            try:
                ours, given = _outputs(trials, mode, len(expected), Inputs(args, kwargs, chosen))
            except Exception as error:
                if not _runs(before, mode, len(expected), Inputs(args, kwargs, chosen)):
                    continue
                ending = f"{type(error).__name__}: {error}"
                return Likeness(Check("inject", passed=False, figure=f"{mode}: it ends in {ending}{hint}"))
            pairs = [*zip(expected, given, strict=False), *_statistics(theirs.model, ours.model)]
            if len(expected) != len(given) or not all(equal_to_the_bit(*pair) for pair in pairs):
                return Likeness(
                    Check(
                        "inject",
                        passed=False,
                        figure=f"{mode}: its outputs are not those of inject's graph{hint}",
                    )
                )
            differs = (
                _gives_the_same(before, after, mode, len(expected), Inputs(args, kwargs, chosen)) if after else None
            )
            if differs:
                return Likeness(Check("inject", passed=False, figure=f"{mode}: {differs}"))
            why = "it runs on no such input" if added else "attention took the place of a part of it"
            lack = "" if differs is not None else f" (to inject's graph, not to the model's own code: {why})"
            figures.append(f"{mode} equal to the bit on {size_of(values)}{lack}")
            break
        else:
            args, kwargs = arguments_of(pristine, values)
            if ended and _runs(before, mode, 0, Inputs(args, kwargs, chosen)):
                figure = f"{mode}: inject's graph ends in {ended}, where the model's own code runs"
                return Likeness(Check("inject", passed=False, figure=figure))
            untried.append(f"in {mode} mode the graph runs on no image that was tried")
    # Where nothing was compared there is nothing that holds.
    check = Check("inject", passed=True, figure="; ".join(figures)) if figures else None
    return Likeness(check, tuple(untried))


def _letting_through(aliased: nn.Module, new: Sequence[Insertion]) -> nn.Module:
    for insertion in new:
        home, _, child = insertion.module.rpartition(".")
        aliased.get_submodule(home)._modules[child] = nn.Identity()
    return aliased


def _runs(trials: Sequence[Runs], mode: str, promised: int, inputs: Inputs) -> bool:
    """Whether the model's own code runs on these inputs: another size than the network is made for is no fault."""
    try:
        _outputs(trials, mode, promised, inputs)
    except Exception:
        return False
    return True


def _gives_the_same(
    before: Sequence[Runs], after: Sequence[Runs], mode: str, promised: int, inputs: Inputs
) -> str | None:
    """How what the model's own code gives is not to the bit what was made of it gives; None where it does not run on
    these inputs.
    """
    try:
        theirs, expected = _outputs(before, mode, promised, inputs)
    except Exception:  # Of another size than the network is made for.
        return None
    ours, given = _outputs(after, mode, promised, inputs)
    pairs = [*zip(expected, given, strict=False), *_statistics(theirs.model, ours.model)]
    if len(expected) != len(given) or not all(equal_to_the_bit(*pair) for pair in pairs):
        return "where its gates let all through, its outputs are not those of the model's own code; use inject"
    if theirs.keeps:
        _, expected = _outputs([theirs], mode, promised, inputs, calls=2)
        _, given = _outputs([ours], mode, promised, inputs, calls=2)
        return "" if same_values(expected, given) else KEEPS
    return ""


def _shapes(graph: InjectedModule, mode: str) -> list[tuple[Any, ...]]:
    """The inputs to try, the smallest first; in train mode in twos, since statistics need more than one value."""
    wanted = input_values(graph.pristine_graph_of("eval")) or ()
    own = input_values(graph.pristine_graph_of(mode)) or ()
    return [*(doubled(each) if mode == "train" else each for each in smaller(wanted)), own]


def _outputs(
    trials: Sequence[Runs], mode: str, promised: int, inputs: Inputs, *, calls: int = 1
) -> tuple[Runs, list[torch.Tensor]]:
    """(the first trial that gives so many outputs as promised, these): hooks may be how a model collects them.

    They are those of the last of so many calls.
    """
    *others, last = trials
    for trial in others:
        try:
            given = _called(trial, mode, inputs, calls)
        except Exception:  # Without its hooks it may lack what it goes on with.
            continue
        if len(given) == promised:
            return trial, given
    return last, _called(last, mode, inputs, calls)


def _called(trial: Runs, mode: str, inputs: Inputs, calls: int) -> list[torch.Tensor]:
    with trial.run(mode):
        for _ in range(calls):
            given = inputs.fresh().given_to(trial.model)
        return list(tensors_in(given))


def _statistics(theirs: nn.Module, ours: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The buffers of both after a run; constants of the graph's own have no like in ours."""
    held = dict(ours.named_buffers())
    return [(buffer, held[name]) for name, buffer in theirs.named_buffers() if name in held]


def _let_gates_do_something(insertions: Sequence[Insertion], *aliases: nn.Module) -> None:
    """Give random values to the new modules' weights, and to gains and norms that start near zero: what such a branch
    gives, gated or not, would not be seen.

    The aliases get parameters of their own for that: what they hold is the caller's memory.
    """
    generator = torch.Generator().manual_seed(0)
    new = tuple(f"{insertion.module}." for insertion in insertions)
    chosen: dict[str, nn.Parameter] = {}
    for name, first in aliases[0].named_parameters():
        if first.is_floating_point() and (name.startswith(new) or (first.numel() and first.abs().max() < _FAINT)):
            values = torch.randn(first.shape, generator=generator, device="cpu").to(
                device=first.device, dtype=first.dtype
            )
            chosen[name] = nn.Parameter(values, requires_grad=False)
    for aliased in aliases:
        held = {id(parameter): chosen[name] for name, parameter in aliased.named_parameters() if name in chosen}
        for module in aliased.modules():
            for name, parameter in module._parameters.items():
                if id(parameter) in held:
                    module._parameters[name] = held[id(parameter)]
