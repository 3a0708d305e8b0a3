"""The postconditions of a rewrite that real passes show; `verify.py` has the others.

 V4. Trace: the graphs as they were before any attention give what the model's own code gives, to the bit, in eval mode
     and, under one seed, in train mode (outputs and statistics).
 V5. Finite: a real forward pass gives finite outputs wherever the original does.
 V6. Gradients: a real backward pass reaches every new parameter.
 V7. Identity: with `init="identity"` the outputs equal the original's to the bit, unless something was taken out.

The passes run on aliases, at a small input size where the network allows one, so that neither modes, statistics,
gradients nor random states of the caller change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..errors import AttnInjectError, GuardError, RewriteError, TraceError, first_line
from ..tracing.alias import alias, copied
from ..tracing.injected import InjectedModule
from ..tracing.inputs import fresh, input_values, real_values, tensors_in
from ..tracing.trace import MODES
from ..types import Check, Insertion, Plan
from .runs import Runs, from_one_seed, without_hooks, writes_weights
from .trial import Trial

KEEPS = "a second call gives something else than the model's own code, which keeps something from call to call"
TRIAL_EXTENTS = (32, 64, 128, 192)


def passes(source: nn.Module, part: InjectedModule, plan: Plan) -> list[Check]:
    """V4 to V7."""
    graph = part.pristine_graph_of("eval")
    inputs = input_values(graph)
    tensors = [*part.parameters(), *part.buffers()]
    if inputs is None or any(tensor.is_meta for tensor in tensors):
        return []
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    aliased, new = _with_gradients(part, plan.insertions)
    try:
        real, outputs = _smallest_pass(aliased, inputs, device)
    except Exception as error:
        raise _ending(source, part, real_values(inputs, device), error) from error
    checks, plain = [], None
    if not isinstance(source, InjectedModule):
        traced, plain = _is_the_model(source, part, real, device)
        checks.append(traced)
    bad = sum(int((~torch.isfinite(out)).sum()) for out in outputs)
    if plain is None and (bad or plan.init == "identity"):
        plain = Trial(source, part).of_code("eval", real)
    floats = None if plain is None else [out for out in plain if out.is_floating_point()]
    excused = floats is not None and bad <= sum(int((~torch.isfinite(out)).sum()) for out in floats)
    checks.append(
        Check("finite", passed=not bad or excused, figure=f"{bad} non-finite outputs on an input of {size_of(real)}")
    )
    if new:
        checks.append(_gradients(aliased, real, outputs, new, plan.insertions))
    lost = plan.removals or part.displaced or any(insertion.site.kind == "attention" for insertion in plan.insertions)
    if plan.init == "identity" and floats is not None and not lost:
        apart = _apart(floats, outputs)
        if apart:
            # torch multiplies in another order where weights have no gradient: as the original ran.
            with torch.no_grad():
                apart = _apart(floats, _drawn_alike(without_hooks(alias(part)).eval(), real))
        checks.append(Check("identity", passed=apart == 0.0, figure=f"largest difference from the original {apart:g}"))
    return checks


def learning(part: InjectedModule, insertions: Sequence[Insertion]) -> Check | None:
    """V6 alone, for what is compared in another way; None where no pass can be made."""
    inputs = input_values(part.pristine_graph_of("eval"))
    tensors = [*part.parameters(), *part.buffers()]
    if inputs is None or any(tensor.is_meta for tensor in tensors):
        return None
    aliased, new = _with_gradients(part, insertions)
    try:
        real, outputs = _smallest_pass(
            aliased, inputs, next((tensor.device for tensor in tensors), torch.device("cpu"))
        )
    except Exception:  # Where it does not run, there is nothing to learn.
        return None
    return _gradients(aliased, real, outputs, new, insertions) if new else None


def _with_gradients(part: InjectedModule, insertions: Sequence[Insertion]) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """(an alias in eval mode in which the new parameters alone want gradients, these by their names)."""
    writes = writes_weights(part, map(part.graph_of, MODES))
    aliased = without_hooks((copied if writes else alias)(part)).eval().requires_grad_(requires_grad=False)
    new = {
        f"{insertion.module}.{name}": parameter
        for insertion in insertions
        for name, parameter in aliased.get_submodule(insertion.module).named_parameters()
    }
    for parameter in new.values():
        parameter.requires_grad = True
    return aliased, new


def _is_the_model(
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
            apart = max((_distance(a, b) for a, b in pairs), default=0.0)
            wrong.append(f"in {mode} mode the graph and the model's own code are up to {apart:g} apart: use attach()")
        elif trial.keeps and not same_values(
            trial.of_code(mode, inputs, calls=2), trial.of_graph(mode, inputs, calls=2)
        ):
            wrong.append(f"in {mode} mode {KEEPS}: use attach()")
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


def doubled(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same in a batch of two of each: statistics need more than one value."""
    return tuple(torch.cat([x, x.flip(-1)]) if isinstance(x, torch.Tensor) and x.dim() else x for x in inputs)


def size_of(inputs: tuple[Any, ...]) -> str:
    """The shape of the first tensor, for people."""
    first = next(tensors_in(inputs), None)
    return "no tensor" if first is None else "x".join(str(extent) for extent in first.shape)


def equal_to_the_bit(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two outputs are the same, not-a-numbers included."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a, b) or (a.is_floating_point() and torch.equal(a.nan_to_num(), b.nan_to_num()))


def same_values(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    """Whether there are as many, each equal to the bit."""
    return len(first) == len(second) and all(map(equal_to_the_bit, first, second))


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return (
        0.0
        if torch.equal(a, b) or (a != b).logical_and(~(a.isnan() & b.isnan())).sum() == 0
        else float((a - b).detach().abs().max())
    )


def _apart(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> float:
    return max((_distance(a, b) for a, b in zip(first, second, strict=True)), default=0.0)


def _gradients(
    aliased: nn.Module,
    real: tuple[Any, ...],
    outputs: list[torch.Tensor],
    new: dict[str, nn.Parameter],
    insertions: Sequence[Insertion],
) -> Check:
    """V6: of the pass in eval mode that gave `outputs`; where that mode has no backward pass, of one in train mode.

    Code for inference alone asks for no gradients, or writes where a backward pass reads.
    """
    with suppress(RuntimeError):
        check = _reached_by(outputs, new, insertions)
        if check.passed or _wants_gradients(aliased, real):
            return check
    try:
        with Runs(aliased).run("train"), torch.enable_grad():
            check = _reached_by(_tensors(aliased(*doubled(real))), new, insertions)
            return replace(check, figure=f"{check.figure}, in train mode alone")
    except RuntimeError as error:
        return Check("gradients", passed=False, figure=f"no backward pass runs: {first_line(error)}")


def _wants_gradients(aliased: nn.Module, real: tuple[Any, ...]) -> bool:
    """Whether what it gives, in the mode it is in, has a gradient for any of its weights."""
    frozen = [parameter for parameter in aliased.parameters() if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad = parameter.is_floating_point()
        return any(out.requires_grad for out in _drawn_alike(aliased, real))
    finally:
        for parameter in frozen:
            parameter.requires_grad = False


def _reached_by(outputs: list[torch.Tensor], new: dict[str, nn.Parameter], insertions: Sequence[Insertion]) -> Check:
    generator = torch.Generator().manual_seed(0)
    total = sum(
        (out.float() * torch.randn(out.shape, generator=generator).to(out.device)).sum()
        for out in outputs
        if out.requires_grad
    )
    if not isinstance(total, torch.Tensor):
        return Check("gradients", passed=False, figure="no output depends on a new parameter")
    reached = _reached(total, new)
    missing = [name for name in new if name not in reached]
    figure = (
        f"{len(reached)} of {len(new)} new parameters reached, {sum(reached.values())} with a gradient other than zero"
    )
    rest = f"; not {', '.join(missing[:4])}" if missing else ""
    if cut := [each.site.block for each in insertions if _is_cut_off(each.module, new, reached)]:
        rest += f"; no gradient comes back to {', '.join(cut[:4])} (is an argmax or a detach behind?): leave that out"
    return Check("gradients", passed=not missing, figure=figure + rest)


def _is_cut_off(module: str, new: Collection[str], reached: Collection[str]) -> bool:
    """Whether no parameter of an attention that has some is reached."""
    own = [name for name in new if name.startswith(f"{module}.")]
    return bool(own) and not any(name in reached for name in own)


def _reached(total: torch.Tensor, new: dict[str, nn.Parameter]) -> dict[str, bool]:
    """Which parameters get a gradient, and whether it is other than zero; each gradient is let go at once."""
    reached: dict[str, bool] = {}

    def note(name: str) -> Callable[[torch.Tensor], None]:
        def hook(parameter: torch.Tensor) -> None:
            assert parameter.grad is not None
            reached[name] = bool(parameter.grad.any())
            parameter.grad = None

        return hook

    handles = [
        parameter.register_post_accumulate_grad_hook(note(name))  # type: ignore[no-untyped-call]
        for name, parameter in new.items()
    ]
    try:
        total.backward(inputs=list(new.values()))  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()
    return reached


def _tensors(outputs: Any) -> list[torch.Tensor]:
    return [tensor for tensor in tensors_in(outputs) if tensor.is_floating_point()]


def _smallest_pass(
    aliased: nn.Module, inputs: tuple[Any, ...], device: torch.device
) -> tuple[tuple[Any, ...], list[torch.Tensor]]:
    """(inputs, outputs) of a real pass at the smallest size that runs, with a batch of one, keeping the aspect."""
    for shapes in smaller(inputs):
        real = real_values(shapes, device)
        try:
            return real, _drawn_alike(aliased, real)
        except Exception:  # Too small, or of another size than the network is made for.
            continue
    real = real_values(inputs, device)
    return real, _drawn_alike(aliased, real)


def _drawn_alike(aliased: nn.Module, real: tuple[Any, ...]) -> list[torch.Tensor]:
    """What it gives, with the numbers that the original's run draws."""
    with from_one_seed((*aliased.parameters(), *aliased.buffers())):
        return _tensors(aliased(*fresh(real)))


def smaller(inputs: tuple[Any, ...]) -> Iterator[tuple[torch.Tensor]]:
    """One image of each size to try, the smallest first; none for several inputs."""
    first = inputs[0]
    if len(inputs) > 1 or not isinstance(first, torch.Tensor) or first.dim() < 3:
        return
    extent = max(first.shape[2:])
    for trial in (*(size for size in TRIAL_EXTENTS if size < extent), extent):
        size = [max(math.ceil(d * trial / extent), 1) for d in first.shape[2:]]
        yield (first.new_empty((1, first.shape[1], *size)),)
