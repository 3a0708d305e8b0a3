"""Postconditions, checked on the result of a rewrite rather than on the rewrite itself.

 V1. Edits: each graph calls every new module as often as its block runs, and nothing else is new.
 V2. Weights: every original tensor is there under its name, with its value, but for those of replaced modules.
 V3. Shapes: the output has the structure and shapes that it had, in both modes.

V4 to V7 need real passes: `passes.py`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import fx, nn

from ..errors import TraceError
from ..tracing.compiled import as_written
from ..tracing.injected import InjectedModule
from ..tracing.inputs import input_values, tensors_in
from ..tracing.nodes import frame_of, has_frame, value_of
from ..tracing.propagation import propagate
from ..tracing.regions import ordinary_mode
from ..tracing.trace import MODES
from ..types import Check, Plan, Verification
from .parameters import state_of
from .passes import passes


@ordinary_mode()
@as_written()
def verify_part(original: nn.Module, patched: InjectedModule, *, fresh: bool = False) -> Verification:
    """`verify` for the patched part of a model and what it was made from.

    `fresh`: nobody has touched it since the rewrite, so that modules give what they gave when they were traced.
    """
    plan = patched.injection.plan
    shapes = _shapes(patched, fresh=fresh)
    checks = [_edits(patched, plan), _weights(original, patched), shapes]
    # What has no shapes does not run either: the attention cannot work on maps of this size.
    checks += passes(original, patched, plan) if shapes.passed else []
    return Verification(tuple(checks))


def _edits(part: InjectedModule, plan: Plan) -> Check:
    wrong: list[str] = []
    usual = _runs(part.pristine_graph_of("eval"))
    for mode in MODES:
        # The plan says how often a block runs in eval mode; in train mode it may run less or more often.
        runs = _runs(part.pristine_graph_of(mode))
        wanted = {
            insertion.module: insertion.site.calls if usual[block] == runs[block] else runs[block]
            for insertion in plan.insertions
            for block in (insertion.site.block,)
        }
        targets = Counter(
            str(node.target)
            for node in part.graph_of(mode).nodes
            # `optimize_training` takes a gate to pieces, which read it.
            if node.op == "call_module" or (node.op == "get_attr" and node.target in wanted)
        )
        before = Counter(str(node.target) for node in part.pristine_graph_of(mode).nodes if node.op == "call_module")
        # A module that takes another's name counts as new.
        wrong += [f"{m} {targets[m]}x in {mode}" for m, calls in wanted.items() if targets[m] != calls]
        wrong += [f"{m} unplanned in {mode}" for m in targets if m not in wanted and targets[m] > before[m]]
    figure = f"{len(plan.insertions)} modules in both graphs" if not wrong else "; ".join(wrong[:4])
    return Check("edits", passed=not wrong, figure=figure)


def _runs(graph: fx.Graph) -> Counter[str]:
    """How often each block runs."""
    return Counter(block for block, _ in {frame_of(node) for node in graph.nodes if has_frame(node)})


def _weights(source: nn.Module, part: InjectedModule) -> Check:
    after = state_of(part, keep_vars=True)
    # What is no tensor (`get_extra_state`) is the model's own business.
    before = {
        name: value for name, value in state_of(source, keep_vars=True).items() if isinstance(value, torch.Tensor)
    }
    gone = {name for name in before if any(name.startswith(f"{path}.") for path in part.displaced)}
    wrong = [name for name in before if name not in gone and not _is_kept(before[name], after.get(name))]
    if wrong:
        return Check("weights", passed=False, figure=f"changed or missing: {', '.join(wrong[:4])}")
    figure = f"{len(before) - len(gone)} tensors kept"
    aside = f", {len(gone)} of replaced modules set aside" if gone else ""
    return Check("weights", passed=True, figure=figure + aside)


def _is_kept(tensor: torch.Tensor, copied: Any) -> bool:
    return isinstance(copied, torch.Tensor) and copied.shape == tensor.shape and _same_values(tensor, copied)


def _same_values(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.is_meta or b.is_meta:
        return a.dtype == b.dtype
    if a.layout is not torch.strided:
        return torch.equal(a.detach().to_dense(), b.detach().to_dense().to(a.device))
    same_memory = a.data_ptr() == b.data_ptr() and a.stride() == b.stride() and a.dtype == b.dtype
    return same_memory or torch.equal(a.detach(), b.detach().to(a.device))


def _shapes(part: InjectedModule, *, fresh: bool) -> Check:
    figures: list[str] = []
    wrong: list[str] = []
    for mode in MODES:
        pristine = part.pristine_graph_of(mode)
        before = _output_value(pristine)
        inputs = input_values(pristine)
        if inputs is None:
            continue
        try:
            after = propagate(part, part.graph_of(mode), inputs, known=pristine if fresh else None)
        except TraceError as error:
            wrong.append(f"{mode}: {error}")
            continue
        if type(before) is not type(after) or _sizes(before) != _sizes(after):
            wrong.append(f"{mode}: {_sizes(before)} became {_sizes(after)}")
        figures.append(f"{mode} {', '.join(str(size) for size in _sizes(after))}")
    return Check("shapes", passed=not wrong, figure="; ".join(wrong or figures) or "no shapes were traced")


def _output_value(graph: fx.Graph) -> Any:
    return value_of(next(iter(reversed(graph.nodes))))


def _sizes(value: Any) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors_in(value)]
