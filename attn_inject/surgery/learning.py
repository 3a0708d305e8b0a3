"""V6: whether a real backward pass reaches every new parameter."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from ..errors import first_line
from ..tracing.injected import InjectedModule
from ..types import Check, Insertion, block_name
from .runs import Runs, alone_in_eval
from .small_passes import doubled, drawn_alike, floats_in, smallest_pass, what_was_traced


def learning(part: InjectedModule, insertions: Sequence[Insertion]) -> Check | None:
    """V6 alone, for what is compared in another way; None where no pass can be made."""
    traced_on = what_was_traced(part)
    if traced_on is None:
        return None
    aliased, new = asking_for_gradients(part, insertions)
    try:
        real, outputs = smallest_pass(aliased, *traced_on)
    except Exception:  # Where it does not run, there is nothing to learn.
        return None
    return gradients(aliased, real, outputs, new, insertions) if new else None


def asking_for_gradients(
    part: InjectedModule, insertions: Sequence[Insertion]
) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """(an alias in eval mode in which the new parameters alone want gradients, these by their names)."""
    aliased = alone_in_eval(part)
    aliased.requires_grad_(requires_grad=False)
    new = {
        f"{insertion.module}.{name}": parameter
        for insertion in insertions
        for name, parameter in aliased.get_submodule(insertion.module).named_parameters()
    }
    for parameter in new.values():
        parameter.requires_grad = True
    return aliased, new


def gradients(
    aliased: nn.Module,
    real: tuple[Any, ...],
    outputs: list[torch.Tensor],
    new: dict[str, nn.Parameter],
    insertions: Sequence[Insertion],
) -> Check:
    """V6: of the pass in eval mode that gave `outputs`; where it reaches not all, of one in train mode.

    Code for inference alone asks for no gradients, writes where a backward pass reads, or rounds what it lets gradients
    through when it is trained (a codebook).
    """
    in_eval: Check | None = None
    with suppress(RuntimeError):
        check = _reached_by(outputs, new, insertions)
        if check.passed:
            return check
        if not _are_read(aliased, insertions):
            return check
        in_eval = check if _wants_gradients(aliased, real) else None
    failure = ""
    # A function with a backward of its own may ask there for the gradients of all the weights that it runs with.
    for asking in (nullcontext(), _all_asking(aliased)):
        try:
            with asking, Runs(aliased).run("train", gradients=True):
                check = _reached_by(floats_in(aliased(*doubled(real))), new, insertions)
                if check.passed or in_eval is None:
                    return replace(check, figure=f"{check.figure}, in train mode alone")
                return in_eval
        except RuntimeError as error:
            failure = failure or first_line(error)
    return in_eval or Check("gradients", passed=False, figure=f"no backward pass runs: {failure}")


def _are_read(part: Any, insertions: Sequence[Insertion]) -> bool:
    """Whether what each new module gives goes on to what the part gives in eval mode."""
    read: set[fx.Node] = set()
    for node in reversed(part.graph_of("eval").nodes):
        if node.op == "output" or node in read:
            read.update((node, *node.all_input_nodes))
    called = {node.target for node in read if node.op == "call_module"}
    return all(insertion.module in called for insertion in insertions)


def _wants_gradients(aliased: nn.Module, real: tuple[Any, ...]) -> bool:
    """Whether what it gives, in the mode it is in, has a gradient for any of its weights."""
    with _all_asking(aliased):
        return any(out.requires_grad for out in drawn_alike(aliased, real))


@contextmanager
def _all_asking(aliased: nn.Module) -> Iterator[None]:
    """Let all weights want gradients."""
    frozen = [parameter for parameter in aliased.parameters() if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad = parameter.is_floating_point()
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad, parameter.grad = False, None


def _reached_by(outputs: list[torch.Tensor], new: dict[str, nn.Parameter], insertions: Sequence[Insertion]) -> Check:
    total = weighted_sum(outputs)
    if total is None:
        return Check("gradients", passed=False, figure="no output depends on a new parameter")
    reached = _reached(total, new)
    missing = [name for name in new if name not in reached]
    figure = (
        f"{len(reached)} of {len(new)} new parameters reached, {sum(reached.values())} with a gradient other than zero"
    )
    rest = f"; not {', '.join(missing[:4])}" if missing else ""
    cut_off = (block_name(each.site.block) for each in insertions if _is_cut_off(each.module, new, reached))
    if cut := list(dict.fromkeys(cut_off)):
        rest += f"; no gradient comes back to {', '.join(cut[:4])} (is an argmax or a detach behind?): leave that out"
    return Check("gradients", passed=not missing, figure=figure + rest)


def weighted_sum(outputs: Iterable[torch.Tensor]) -> torch.Tensor | None:
    """A number that hangs on all of the outputs that have a gradient; None if there are none."""
    generator = torch.Generator().manual_seed(0)
    parts = [
        (out.float() * torch.randn(out.shape, generator=generator, device="cpu").to(out.device)).sum()
        for out in outputs
        if out.requires_grad and out.is_floating_point()
    ]
    return torch.stack([part.cpu() for part in parts]).sum() if parts else None


def _is_cut_off(module: str, new: Collection[str], reached: Collection[str]) -> bool:
    """Whether no parameter of an attention that has some is reached."""
    own = [name for name in new if name.startswith(f"{module}.")]
    return bool(own) and not any(name in reached for name in own)


def _reached(total: torch.Tensor, new: dict[str, nn.Parameter]) -> dict[str, bool]:
    """Which parameters get a gradient, and whether it is other than zero; each gradient is let go at once."""
    reached: dict[str, bool] = {}

    # One that several attentions share has several names.
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in new.items():
        names.setdefault(parameter, []).append(name)

    def note(parameter: torch.Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        assert parameter.grad is not None
        reached.update(dict.fromkeys(names[parameter], bool(parameter.grad.any())))
        parameter.grad = None

    handles = [
        parameter.register_post_accumulate_grad_hook(note)  # type: ignore[no-untyped-call]
        for parameter in names
    ]
    try:
        # Not with `inputs`, which a checkpoint that is an autograd function does not take.
        total.backward()  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()
    return reached
