"""The postconditions of a rewrite that real passes show; `verify.py` has the others.

 V4. Trace: the graphs as they were before any attention give what the model's own code gives, to the bit, in eval mode
     and, under one seed, in train mode (outputs and statistics).
 V5. Finite: a real forward pass gives finite outputs wherever the original does.
 V6. Gradients: a real backward pass reaches every new parameter (`learning`).
 V7. Identity: with `init="identity"` the outputs equal the original's to the bit, unless something was taken out.

The passes run on aliases, at a small input size where the network allows one, so that neither modes, statistics,
gradients nor random states of the caller change.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import AttnInjectError, GuardError, RewriteError, TraceError, first_line
from ..tracing.injected import InjectedModule
from ..tracing.inputs import input_values, real_values
from ..tracing.trace import MODES
from ..types import Check, Plan
from .learning import asking_for_gradients, gradients
from .runs import alone_in_eval
from .sameness import KEEPS, distance, largest_distance, same_values
from .small_passes import doubled, drawn_alike, size_of, smallest_pass, what_was_traced
from .trial import Trial

ADVICE = ": use attach()"


def passes(source: nn.Module, part: InjectedModule, plan: Plan) -> list[Check]:
    """V4 to V7."""
    traced_on = what_was_traced(part)
    if traced_on is None:
        return []
    inputs, device = traced_on
    aliased, new = asking_for_gradients(part, plan.insertions)
    try:
        real, outputs = smallest_pass(aliased, inputs, device)
    except Exception as error:
        raise _ending(source, part, real_values(inputs, device), error) from error
    checks, plain = [], None
    if not isinstance(source, InjectedModule):
        traced, plain = is_the_model(source, part, real, device)
        if plain is None:  # Its own code takes no such size.
            real = real_values(inputs, device)
            outputs = drawn_alike(aliased, real)
            traced, plain = is_the_model(source, part, real, device)
        checks.append(traced)
    elif plan.init == "identity" or any(map(_bad, outputs)):
        plain = Trial(source, part).of_code("eval", real)
    bad = sum(map(_bad, outputs))
    floats = None if plain is None else [out for out in plain if out.is_floating_point()]
    excused = floats is not None and bad <= sum(map(_bad, floats))
    checks.append(
        Check("finite", passed=not bad or excused, figure=f"{bad} non-finite outputs on an input of {size_of(real)}")
    )
    if new:
        checks.append(gradients(aliased, real, outputs, new, plan.insertions))
    lost = plan.removals or part.displaced or any(insertion.site.kind == "attention" for insertion in plan.insertions)
    if plan.init == "identity" and floats is not None and not lost:
        apart = largest_distance(floats, outputs)
        if apart:
            # torch multiplies in another order where weights have no gradient: as the original ran.
            with torch.no_grad():
                apart = largest_distance(floats, drawn_alike(alone_in_eval(part), real))
        checks.append(Check("identity", passed=apart == 0.0, figure=f"largest difference from the original {apart:g}"))
    return checks


def _bad(out: torch.Tensor) -> int:
    """How many values are not finite."""
    return int((~torch.isfinite(out)).sum())


def is_the_model(
    source: nn.Module, part: InjectedModule, real: tuple[Any, ...], device: torch.device
) -> tuple[Check, list[torch.Tensor] | None]:
    """V4, and what the model gives in eval mode."""
    figures: list[str] = []
    wrong: list[str] = []
    plain: list[torch.Tensor] | None = None
    trial = Trial(source, part)
    for mode in MODES:
        values = input_values(part.pristine_graph_of(mode)) or ()
        for inputs in [real] if mode == "eval" else [doubled(real), real_values(values, device)]:
            try:
                given = trial.of_code(mode, inputs)
                before = [*given, *trial.statistics()]
            except Exception as error:
                reason = (
                    f"{mode} not compared: the model's own code ends in {type(error).__name__} on {size_of(inputs)}"
                )
                continue
            try:
                after = [*trial.of_graph(mode, inputs), *trial.statistics()]
                break
            except GuardError:  # In this mode the code decides on the size: the graph holds for that of the trace.
                reason = f"{mode} not compared: the graph holds for another size than {size_of(inputs)}"
            except Exception as error:
                raise _ours(f"graph in {mode} mode", inputs, error) from error
        else:
            figures.append(reason)
            continue
        plain = given if mode == "eval" else plain
        if not same_values(before, after):
            pairs = [pair for pair in zip(before, after, strict=False) if pair[0].shape == pair[1].shape]
            apart = max((distance(a, b) for a, b in pairs), default=0.0)
            wrong.append(f"in {mode} mode the graph and the model's own code are up to {apart:g} apart{ADVICE}")
        elif trial.keeps and not same_values(
            trial.of_code(mode, inputs, calls=2), trial.of_graph(mode, inputs, calls=2)
        ):
            wrong.append(f"in {mode} mode {KEEPS}{ADVICE}")
        elif (hooked := trial.of_hooked_code(mode, inputs)) is not None and not same_values(given, hooked):
            wrong.append(f"in {mode} mode hooks that go together change what it gives{ADVICE}")
        figures.append(f"{mode} equal to the bit on {size_of(inputs)}")
    return Check("trace", passed=not wrong, figure="; ".join(wrong or figures)), plain


def _ending(source: nn.Module, part: InjectedModule, inputs: tuple[Any, ...], error: Exception) -> Exception:
    """What to raise where the graph ends in `error` on what it was traced on: the model's own code is asked too."""
    if isinstance(error, AttnInjectError):
        return error
    try:
        Trial(source, part).of_code("eval", inputs)
    except Exception as own:
        return TraceError(f"the model itself ends in {type(own).__name__} on {size_of(inputs)}: {first_line(own)}")
    return _ours("patched graph", inputs, error)


def _ours(graph: str, inputs: tuple[Any, ...], error: Exception) -> RewriteError:
    return RewriteError(
        f"the {graph} ends in {type(error).__name__} on {size_of(inputs)}, where the model's own code runs: "
        f"{first_line(error)}"
    )
