"""Whether an attached part does what `inject` makes of it, seen on real passes before it is handed out.

L1. In eval mode and, under one seed, in train mode it gives what the graph gives, to the bit, outputs and statistics,
    with new modules whose weights are random, so that every gate does something.
L2. Where there is no graph to compare with, each new module runs as often as planned, on maps of the planned width, and
    with modules in their place that give back what they get the part gives what it gave.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..tracing.alias import alias
from ..tracing.injected import InjectedModule
from ..tracing.inputs import Inputs, arguments_of, chosen_arguments, input_values, real_values, tensors_in
from ..tracing.recording import real_inputs
from ..tracing.trace import MODES
from ..types import Check, Plan
from .passes import doubled, equal_to_the_bit, size_of, smaller
from .trial import without_hooks

_FAINT = 1e-2


def likeness(
    original: nn.Module, inputs: Inputs, part: nn.Module, plan: Plan, graph: InjectedModule | None
) -> Check | None:
    """What was compared, with its figure; None for a model that has shapes only.

    `original` is what `part` was made from, `inputs` what it was read on, and `graph` what `inject` makes of it.
    """
    if any(tensor.is_meta for tensor in (*part.parameters(), *part.buffers())):
        return None
    if graph is None:
        return _as_recorded(original, inputs, part, plan)
    return _as_the_graph(original, part, plan, graph)


def _as_the_graph(original: nn.Module, part: nn.Module, plan: Plan, graph: InjectedModule) -> Check:
    ours, theirs, hooked = _trial(part), _trial(graph), alias(part)
    _let_gates_do_something(plan, ours, theirs, hooked)
    pristine = graph.pristine_graph_of("eval")
    chosen = chosen_arguments(original.forward, graph.fixed)
    device = next((tensor.device for tensor in graph.parameters()), torch.device("cpu"))
    wanted = input_values(pristine) or ()
    figures: list[str] = []
    for mode in MODES:
        own = input_values(graph.pristine_graph_of(mode)) or ()
        tried = [*smaller(wanted), own] if mode == "eval" else [*map(doubled, smaller(wanted)), own]
        for shapes in tried:
            inputs = real_values(shapes, device)
            args, kwargs = arguments_of(pristine, inputs)
            try:
                with _fresh(graph, theirs, mode):
                    expected = [*tensors_in(theirs(*inputs)), *theirs.buffers()]
            except Exception:  # Too small, or of another size than the network is made for.
                continue
            try:
                promised = len(expected) - len(list(theirs.buffers()))
                ours, given = _outputs(part, [ours, hooked], mode, promised, (args, {**kwargs, **chosen}))
            except Exception as error:
                return Check("inject", passed=False, figure=f"{mode}: it ends in {type(error).__name__}: {error}")
            given += _ordered(ours, theirs)
            if len(expected) != len(given) or not all(map(equal_to_the_bit, expected, given)):
                return Check("inject", passed=False, figure=f"{mode}: its outputs are not those of inject's graph")
            figures.append(f"{mode} equal to the bit on {size_of(inputs)}")
            break
        else:
            figures.append(f"{mode} not compared: the graph runs on no image")
    return Check("inject", passed=True, figure="; ".join(figures))


def _outputs(
    part: nn.Module, trials: list[nn.Module], mode: str, promised: int, call: tuple[tuple[Any, ...], dict[str, Any]]
) -> tuple[nn.Module, list[torch.Tensor]]:
    """(the trial that gave so many outputs as promised, these): hooks may be how a model collects them."""
    *others, last = trials
    args, kwargs = call
    for trial in others:
        try:
            with _fresh(part, trial, mode):
                given = list(tensors_in(trial(*args, **kwargs)))
        except Exception:
            continue
        if len(given) == promised:
            return trial, given
    with _fresh(part, last, mode):
        return last, list(tensors_in(last(*args, **kwargs)))


def _ordered(ours: nn.Module, theirs: nn.Module) -> list[torch.Tensor]:
    """Our statistics in the order of theirs; constants of the graph's own have no like in ours."""
    held = dict(ours.named_buffers())
    return [held.get(name, buffer) for name, buffer in theirs.named_buffers()]


def _trial(module: nn.Module) -> nn.Module:
    """An alias without the caller's hooks."""
    return without_hooks(alias(module))


def _let_gates_do_something(plan: Plan, *models: nn.Module) -> None:
    """Give random values to the new modules' weights, and to gains and norms that start near zero: what such a branch
    gives, gated or not, would not be seen.
    """
    generator = torch.Generator().manual_seed(0)
    new = tuple(f"{insertion.module}." for insertion in plan.insertions)
    tables = [dict(model.named_parameters()) for model in models]
    for name, first in tables[0].items():
        if first.is_floating_point() and (name.startswith(new) or (first.numel() and first.abs().max() < _FAINT)):
            values = torch.randn(first.shape, generator=generator)
            for table in tables:
                table[name].data = values.to(device=first.device, dtype=first.dtype)


@contextmanager
def _fresh(source: nn.Module, model: nn.Module, mode: str) -> Iterator[None]:
    """Let an alias of `source` run in `mode`, from the source's statistics, which stay as they are."""
    model.train(mode=mode == "train")
    for theirs, ours in zip(source.modules(), model.modules(), strict=True):
        for name, buffer in theirs._buffers.items():
            ours._buffers[name] = None if buffer is None else buffer.clone()
    devices = {tensor.device.index for tensor in source.parameters() if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
        torch.manual_seed(0)
        yield


class _Watched(nn.Module):
    """Gives back what it gets, and notes how wide it is."""

    def __init__(self, seen: Counter[tuple[str, int]], name: str) -> None:
        super().__init__()
        self.seen = (seen,)
        self.name = name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen[0][self.name, x.shape[1]] += 1
        return x


def _as_recorded(original: nn.Module, inputs: Inputs, part: nn.Module, plan: Plan) -> Check:
    """L2."""
    ours, before = _trial(part), _trial(original)
    seen: Counter[tuple[str, int]] = Counter()
    for insertion in plan.insertions:
        home, _, child = insertion.module.rpartition(".")
        ours.get_submodule(home)._modules[child] = _Watched(seen, insertion.module)
    untouched = alias(ours)
    real = real_inputs(inputs, before)
    with _fresh(original, before, "eval"):
        expected = list(tensors_in(real.given_to(before)))
    with _fresh(untouched, ours, "eval"):
        given = list(tensors_in(real.given_to(ours)))
    wanted = {(insertion.module, insertion.channels): insertion.site.calls for insertion in plan.insertions}
    wrong = [f"{name} ran {seen[name, width]} times" for (name, width), n in wanted.items() if seen[name, width] != n]
    if len(expected) != len(given) or not all(map(equal_to_the_bit, expected, given)):
        wrong.append("it gives something else where no gate does anything")
    figure = "; ".join(wrong[:4]) or f"{len(wanted)} modules run as planned in eval mode; train mode not compared"
    return Check("calls", passed=not wrong, figure=figure)
