"""The patched part of a model in its place: the model around it, which calls it as it called the original.

S1. Nothing within a graph is a part of its own, nor what holds a patched part.
S2. The model around the part runs with the graph in its place, where it ran before.
S3. It runs the graph as often as it ran the part, and no block that has attention past the graph.
S4. With the graph as it was before any attention, it gives what it gave, to the bit.

All of it in eval and in train mode. S2 and S3 are seen on the meta device, without arithmetic; S4 is a real pass on
aliases with buffers of their own, from one seed. What cannot be tried is said in the record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..errors import ArgumentError, GuardError, PlanError, first_line
from ..sites.reading import LocatedModel
from ..tracing.alias import alias
from ..tracing.calls import calls_of, run_on_meta, usual_inputs
from ..tracing.hook_tables import FORWARD, hook_tables
from ..tracing.injected import InjectedModule
from ..tracing.inputs import Inputs, tensors_in
from ..tracing.onlookers import nothing_kept_by_hooks
from ..tracing.parts import put_in_place, record_of
from ..tracing.restoring import aside_in_mode
from ..tracing.rewritten import writing_of
from .attachment import attachments_of
from .pristine import without_attention
from .runs import Runs, without_onlookers
from .sameness import PAIRS, equal_to_the_bit
from .small_passes import TRIAL_EXTENTS

_MEND = "use attach(), which keeps the part's own class, or inject without a scope"


def must_be_apart(model: nn.Module, scope: str | None) -> None:
    """S1; and a model that has attached attention is refused.

    Raises:
        PlanError: names the patched part, and how both can be had.

    """
    place = f"{scope}." if scope else ""
    for path, module in model.named_modules():
        if writing_of(module) is not None or attachments_of(module):
            raise PlanError("attach() put attention into this model, which a graph would lose: detach() it first")
        if not isinstance(module, InjectedModule) or path == (scope or ""):
            continue
        if place.startswith(f"{path}.") or not path:
            where = f"scope={path!r}" if path else "no scope"
            raise PlanError(
                f"{scope} lies in {path or 'the model'}, which is a graph since it was patched: "
                f"inject with {where} and include=, which patches more blocks of that graph"
            )
        if path.startswith(place):
            raise PlanError(
                f"{path} was patched by itself: inject into the other parts with scope=, or remove() it first"
            )


def in_surroundings(located: LocatedModel, patched: InjectedModule, *, compared: bool = True) -> nn.Module:
    """The patched part in its place in an alias of the model, which then carries the record; itself without a scope.

    `compared` is whether S4 is tried too, which takes a real pass.

    Raises:
        PlanError: the whole asks the part for what a graph does not have, runs past it, or gives something else.

    """
    if not located.scope:
        return patched
    outer = put_in_place(alias(located.model), {located.scope: patched})
    untried = tuple(_untried(located, patched, outer, compared=compared))
    patched.injection = replace(patched.injection, not_kept=(*patched.injection.not_kept, *untried))
    vars(outer)["injection"] = patched.injection
    vars(outer)["injection"] = record_of(outer)
    return outer


def must_run_around(original: nn.Module, outer: nn.Module) -> None:
    """Refuse a model `outer` that does not run with new modules in a part of it, where `original` does.

    Raises:
        PlanError: with what it ends in.

    """
    for training in (False, True):
        way = _Way(training, hooked=False)
        before, after = (way.alias_of(model).to("meta") for model in (original, outer))
        for inputs in usual_inputs(before):
            try:
                run_on_meta(before, inputs)
            except Exception:  # What it minds in these, it may not mind in the next.
                continue
            try:
                run_on_meta(after, inputs)
            except Exception as error:
                raise PlanError(
                    f"the model does not run with attention in that part alone, in {'train' if training else 'eval'} "
                    f"mode: {first_line(error)} ({PAIRS})"
                ) from error
            break


def _untried(located: LocatedModel, patched: InjectedModule, outer: nn.Module, *, compared: bool) -> Iterator[str]:
    """Try the whole in both modes; what could not be, and why. What the original refuses says nothing."""
    has_weights = not any(t.is_meta for t in (*located.model.parameters(), *located.model.buffers()))
    # A part that was patched before has been compared, and gives something else since.
    compared = compared and has_weights and located.patched_part is None
    said: list[str] = []
    for training in (False, True):
        ways = [_Way(training, hooked=hooked) for hooked in ([False, True] if _has_hooks(located.model) else [False])]
        whys = [why for way in ways if (why := _untried_so(way, located, patched, outer, compared=compared))]
        # Hooks may be what it needs to run at all.
        if len(whys) == len(ways) and whys[0] not in said:
            said.append(whys[0])
            yield f"a trial of the model around {located.scope}{' in train mode' if training else ''}: {whys[0]}"


def _untried_so(way: _Way, located: LocatedModel, patched: InjectedModule, outer: nn.Module, *, compared: bool) -> str:
    scope = located.scope or ""
    before, after = _Trial(located.model, scope, patched, way), _Trial(outer, scope, patched, way)
    why = "it runs on no image of a usual size"
    for inputs in usual_inputs(before.whole):
        if not before.runs(inputs):
            continue
        if not before.calls and not before.ran:
            return "" if way.training else "it does not run that part in eval mode"
        try:
            after.run(inputs)
        except ArgumentError as error:
            raise PlanError(f"the model around {scope} calls it in several ways ({error}): {_MEND}") from error
        except GuardError:
            # The whole gives the part another size than it was traced with, or shapes alone have another device.
            why = "it gives the part no image of the size that the part was traced at"
            continue
        except Exception as error:
            raise _not_running(scope, error) from error
        if not before.calls or len(after.calls) != len(before.calls) or after.ran & after.holding:
            raise PlanError(
                f"the model around {scope} runs what is in it past its forward, where a graph has no attention: {_MEND}"
            )
        return _different(located, patched, before, inputs) if compared else ""
    return why


@dataclass(frozen=True)
class _Way:
    """How the whole is tried: in which mode, and whether with the caller's hooks, which may record what they see."""

    training: bool
    hooked: bool

    def alias_of(self, model: nn.Module) -> nn.Module:
        aliased = aside_in_mode(alias(model), "train" if self.training else "eval")
        return aliased if self.hooked else without_onlookers(aliased)

    def outputs(self, model: nn.Module, inputs: Inputs) -> list[torch.Tensor]:
        """What an alias of `model` gives, with statistics and generators of its own."""
        aliased = self.alias_of(model)
        # Nobody has looked whether the rest of the model writes into its weights when it trains.
        run = Runs(aliased, writes=self.training).run("train" if self.training else "eval")
        with run, nothing_kept_by_hooks(aliased):
            own = inputs.fresh()
            return list(tensors_in(aliased(*own.positional, **own.named)))


def _has_hooks(model: nn.Module) -> bool:
    return any(hook_tables(module, FORWARD) for module in model.modules())


def _not_running(scope: str, error: Exception) -> PlanError:
    said = first_line(error)
    return PlanError(f"the model around {scope} does not run with a graph in its place ({said}): {_MEND}")


class _Trial:
    """A model on the meta device that is watched: the calls of its part, and of modules in the part.

    `ran` are the paths in the part of modules that ran by a call of their own, and `holding` those that lead to new
    attention: a graph runs what they hold, but not them.
    """

    def __init__(self, model: nn.Module, scope: str, patched: InjectedModule, way: _Way) -> None:
        self.way = way
        self.whole = way.alias_of(model).to("meta")
        part = self.whole.get_submodule(scope)
        self.calls = calls_of(part)
        self.ran: set[str] = set()
        names = [insertion.module.split(".") for insertion in patched.injection.plan.insertions]
        self.holding = {".".join(parts[:depth]) for parts in names for depth in range(1, len(parts))}
        for path, module in part.named_modules():
            if path:
                module.register_forward_pre_hook(lambda *_, path=path: self.ran.add(path))

    def run(self, inputs: Inputs) -> None:
        self.calls.clear()
        self.ran.clear()
        run_on_meta(self.whole, inputs)

    def runs(self, inputs: Inputs) -> bool:
        try:
            self.run(inputs)
        except Exception:
            return False
        return True


def _different(located: LocatedModel, patched: InjectedModule, before: _Trial, usual: Inputs) -> str:
    """S4, on the smallest image that will do; why it could not be seen, if so."""
    scope, way = located.scope or "", before.way
    for inputs in _smaller_ones(usual, batch=1 + way.training):
        if not before.runs(inputs):
            continue
        real = _real(inputs, located.model)
        try:
            ours = way.outputs(located.model, real)
        except Exception:  # Shapes alone ran; the next size may have what this one lacks.
            continue
        bare = put_in_place(alias(located.model), {scope: without_attention(patched)})
        try:
            theirs = way.outputs(bare, real)
        except GuardError:
            continue
        except Exception as error:
            raise _not_running(scope, error) from error
        if _are_equal(ours, theirs):
            return ""
        if not _are_equal(ours, way.outputs(located.model, real)):
            return "it gives something else each time that it runs"
        raise PlanError(f"the model around {scope} gives something else with a graph in its place: {_MEND}")
    return "its outputs could not be compared on an image of a usual size"


def _are_equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(equal_to_the_bit, ours, theirs))


def _smaller_ones(usual: Inputs, batch: int) -> Iterator[Inputs]:
    (image,) = usual.tensors
    extent = max(image.shape[2:])
    for size in (*(size for size in TRIAL_EXTENTS if size < extent), extent):
        smaller = image.new_empty((batch, image.shape[1], *(size for _ in image.shape[2:])))
        yield usual.map(lambda _, smaller=smaller: smaller)  # type: ignore[misc]


def _real(inputs: Inputs, model: nn.Module) -> Inputs:
    (image,) = inputs.tensors
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(image.shape, generator=generator, device="cpu").to(device=device, dtype=image.dtype)
    return inputs.map(lambda _: values)
