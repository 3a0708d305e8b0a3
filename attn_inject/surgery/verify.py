"""Postconditions, checked on the result of a rewrite rather than on the rewrite itself.

 V1. Edits: each graph calls every new module as often as its block runs, and nothing else is new.
 V2. Weights: every original tensor is there under its name, with its value, but for those of replaced modules.
 V3. Shapes: the output has the structure and shapes that it had, in both modes.
 V4. Finite: a real forward pass gives finite outputs wherever the original does.
 V5. Gradients: a real backward pass reaches every new parameter.
 V6. Identity: with `init="identity"` the outputs equal the original's to the bit, unless something was taken out.

The passes of V4 to V6 run in eval mode on an alias, at a small input size where the network allows one, so that neither
modes, statistics, gradients nor random states of the caller change.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves, tree_structure

from ..errors import TraceError
from ..tracing.alias import alias
from ..tracing.injected import InjectedModule, injected_part
from ..tracing.nodes import has_value, value_of
from ..tracing.prepare import unwrap
from ..tracing.shapes import propagate
from ..tracing.tracer import MODES
from ..types import Check, Plan, Verification

_TRIAL_EXTENTS = (32, 64, 128, 192)


def verify(original: nn.Module, patched: nn.Module) -> Verification:
    """Check `patched` against `original`; each check comes with its figure. Neither module is changed.

    >>> from attn_inject import inject, verify
    >>> from attn_inject.zoo.cifar import models
    >>> model = models()["resnet20"]()
    >>> verification = verify(model, inject(model, "eca"))
    >>> verification.passed, [check.name for check in verification.checks]
    (True, ['edits', 'weights', 'shapes', 'finite', 'gradients'])

    Raises:
        PlanError: `patched` is not a patched model.

    """
    part, scope = injected_part(patched)
    whole = unwrap(original)
    return verify_part(whole.get_submodule(scope) if scope else whole, part)


def verify_part(original: nn.Module, patched: InjectedModule) -> Verification:
    """`verify` for the patched part of a model and what it was made from."""
    plan = patched.injection.plan
    shapes = _shapes(patched)
    checks = [_edits(patched, plan), _weights(original, patched), shapes]
    # What has no shapes does not run either: the attention cannot work on maps of this size.
    checks += _passes(original, patched, plan) if shapes.passed else []
    return Verification(tuple(checks))


def _edits(part: InjectedModule, plan: Plan) -> Check:
    wanted = {insertion.module: insertion.site.calls for insertion in plan.insertions}
    wrong: list[str] = []
    for mode in MODES:
        targets = Counter(str(node.target) for node in part.graph_of(mode).nodes if node.op == "call_module")
        before = Counter(str(node.target) for node in part.pristine_graph_of(mode).nodes if node.op == "call_module")
        # A module that takes another's name counts as new.
        wrong += [f"{m} {targets[m]}x in {mode}" for m, calls in wanted.items() if targets[m] != calls]
        wrong += [f"{m} unplanned in {mode}" for m in targets if m not in wanted and targets[m] > before[m]]
    figure = f"{len(wanted)} modules in both graphs" if not wrong else "; ".join(wrong[:4])
    return Check("edits", passed=not wrong, figure=figure)


def _weights(source: nn.Module, part: InjectedModule) -> Check:
    after = part.state_dict(keep_vars=True)
    # What is no tensor (`get_extra_state`) is the model's own business.
    before = {
        name: value for name, value in source.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)
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
    same_memory = a.data_ptr() == b.data_ptr() and a.stride() == b.stride() and a.dtype == b.dtype
    return same_memory or torch.equal(a.detach(), b.detach().to(a.device))


def _shapes(part: InjectedModule) -> Check:
    figures: list[str] = []
    wrong: list[str] = []
    for mode in MODES:
        before = _output_value(part.pristine_graph_of(mode))
        inputs = _input_values(part.pristine_graph_of(mode))
        if inputs is None:
            continue
        try:
            after = propagate(part, part.graph_of(mode), inputs)
        except TraceError as error:
            wrong.append(f"{mode}: {error}")
            continue
        if tree_structure(before) != tree_structure(after) or _sizes(before) != _sizes(after):
            wrong.append(f"{mode}: {_sizes(before)} became {_sizes(after)}")
        figures.append(f"{mode} {', '.join(str(size) for size in _sizes(after))}")
    return Check("shapes", passed=not wrong, figure="; ".join(wrong or figures) or "no shapes were traced")


def _input_values(graph: fx.Graph) -> tuple[Any, ...] | None:
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    if not all(has_value(node) for node in placeholders):
        return None
    return tuple(value_of(node) for node in placeholders)


def _output_value(graph: fx.Graph) -> Any:
    return value_of(next(iter(reversed(graph.nodes))))


def _sizes(value: Any) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _passes(source: nn.Module, part: InjectedModule, plan: Plan) -> list[Check]:
    """V4 to V6."""
    inputs = _input_values(part.pristine_graph_of("eval"))
    tensors = [*part.parameters(), *part.buffers()]
    if inputs is None or any(tensor.is_meta for tensor in tensors):
        return []
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    aliased = _without_hooks(alias(part)).eval().requires_grad_(requires_grad=False)
    new = {
        f"{insertion.module}.{name}": parameter
        for insertion in plan.insertions
        for name, parameter in aliased.get_submodule(insertion.module).named_parameters()
    }
    for parameter in new.values():
        parameter.requires_grad = True
    real, outputs = _smallest_pass(aliased, inputs, device)
    plain: list[torch.Tensor] | None = None
    checks: list[Check] = []
    bad = sum(int((~torch.isfinite(out)).sum()) for out in outputs)
    if bad or plan.init == "identity":
        before = _without_hooks(alias(source)).eval()
        with torch.no_grad():
            plain = _tensors(before(*real))
    excused = plain is not None and bad <= sum(int((~torch.isfinite(out)).sum()) for out in plain)
    shape = "x".join(str(extent) for extent in real[0].shape)
    checks.append(Check("finite", passed=not bad or excused, figure=f"{bad} non-finite outputs on an input of {shape}"))
    if new:
        checks.append(_gradients(outputs, new))
    lost = plan.removals or part.displaced or any(insertion.site.kind == "attention" for insertion in plan.insertions)
    if plan.init == "identity" and plain is not None and not lost:
        apart = max((_distance(a, b) for a, b in zip(plain, outputs, strict=True)), default=0.0)
        checks.append(Check("identity", passed=apart == 0.0, figure=f"largest difference from the original {apart:g}"))
    return checks


def _without_hooks(aliased: nn.Module) -> nn.Module:
    """Take the caller's forward and backward hooks off an alias: they may record what they see."""
    for module in aliased.modules():
        for hooks in (module._forward_hooks, module._backward_hooks, module._backward_pre_hooks):
            hooks.clear()
    return aliased


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return (
        0.0
        if torch.equal(a, b) or (a != b).logical_and(~(a.isnan() & b.isnan())).sum() == 0
        else float((a - b).detach().abs().max())
    )


def _gradients(outputs: list[torch.Tensor], new: dict[str, nn.Parameter]) -> Check:
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
    return Check("gradients", passed=not missing, figure=figure + rest)


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
    total.backward(inputs=list(new.values()))  # type: ignore[no-untyped-call]
    for handle in handles:
        handle.remove()
    return reached


def _tensors(outputs: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


def _smallest_pass(
    aliased: nn.Module, inputs: tuple[Any, ...], device: torch.device
) -> tuple[tuple[Any, ...], list[torch.Tensor]]:
    """(inputs, outputs) of a real pass at the smallest size that runs, with a batch of one, keeping the aspect."""
    for smaller in _smaller(inputs):
        real = _real_inputs(smaller, device)
        try:
            return real, _tensors(aliased(*real))
        except (RuntimeError, ValueError, AssertionError):
            # Too small, or of another size than the network is made for.
            continue
    real = _real_inputs(inputs, device)
    return real, _tensors(aliased(*real))


def _smaller(inputs: tuple[Any, ...]) -> Iterator[tuple[torch.Tensor]]:
    first = inputs[0]
    if len(inputs) > 1 or not isinstance(first, torch.Tensor) or first.dim() < 3:
        return
    extent = max(first.shape[2:])
    for trial in (*(size for size in _TRIAL_EXTENTS if size < extent), extent):
        size = [max(math.ceil(d * trial / extent), 1) for d in first.shape[2:]]
        yield (first.new_empty((1, first.shape[1], *size)),)


def _real_inputs(inputs: tuple[Any, ...], device: torch.device) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(value.shape, generator=generator).to(device=device, dtype=value.dtype)
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        else torch.zeros(value.shape, dtype=value.dtype, device=device)
        if isinstance(value, torch.Tensor)
        else value
        for value in inputs
    )
