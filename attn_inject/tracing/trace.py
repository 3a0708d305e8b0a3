"""From an `nn.Module` to its `Trace`: a graph for each mode, with what it took to get them.

`tracer.py` follows the code once; here is what is tried again: with a module kept whole, in another mode, at another
size.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn

from ..errors import TraceError
from ..types import Guard
from .alias import alias
from .compiled import calling_what_they_wrap
from .explain import CodeError, SizeError, is_data_dependent
from .frames import Calls
from .guards import erase_guards, guards_of, guards_of_devices, guards_of_gradients, same_but_for_guards
from .helpers import note_owners
from .inputs import NO_INPUTS, Inputs
from .leaves import Leaves
from .settings import Setting, settings_of
from .tracer import KeepsSomething, StaysWhole, Tracer
from .values import DEVICE_FACTS, Gradients
from .watching import Watch

MODES = ("eval", "train")


@dataclass(frozen=True)
class Trace:
    """A model's graphs.

    `skeleton` is an alias of the model (same weights, own modules) that the graphs refer to; `graphs` maps "train" and
    "eval" to a graph; `constants` maps the attribute names of tensors that neither parameters nor buffers hold;
    `calls` has the calls of modules in each mode, as long as the graphs are as they were traced.
    `any_size` is whether another input size and batch gives the same graphs. `recorded` says why there is no graph,
    but the data flow of one run in eval mode, good for finding sites and for `attach`, not for running.
    `settings` are those that its own code read, where it was traced with others kept `whole`.
    `checkpoints` are the paths of modules that checkpoint activations, which the graphs do not. `hooks` are the keys of
    those that change something, which the graphs do too. `in_turn` is whether they do what other threads do. `notes` is
    whether the model's code notes something on it, which the graphs do not.
    """

    skeleton: nn.Module
    graphs: dict[str, fx.Graph]
    constants: dict[str, torch.Tensor]
    inputs: Inputs = NO_INPUTS
    fixed_arguments: Mapping[str, Any] = field(default_factory=dict)
    any_size: bool = True
    recorded: str = ""
    calls: Mapping[str, Calls] = field(default_factory=dict)
    settings: tuple[Setting, ...] = ()
    checkpoints: tuple[str, ...] = ()
    hooks: Collection[int] = ()
    in_turn: bool = False
    notes: bool = False

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of the first tensor input, batch included."""
        return self.inputs.shape

    @property
    def guards(self) -> tuple[Guard, ...]:
        """The decisions of the model's code that its graphs hold for."""
        return tuple(dict.fromkeys(guard for graph in self.graphs.values() for guard in guards_of(graph)))


def trace(
    model: nn.Module,
    *,
    inputs: Inputs | tuple[Any, ...] | None = None,
    modes: Sequence[str] = MODES,
    whole: Collection[str] | None = None,
) -> Trace:
    """Trace `model` in each of `modes` on `inputs`, of which only shapes and dtypes are used.

    Without inputs nothing has a value: code that asks for sizes cannot be followed.
    `whole` are paths of submodules that stay single calls, beside those that `Leaves` knows.

    Raises:
        TraceError: naming the line at which the model cannot be followed.

    """
    subject = Subject(model, whole)
    given = inputs if isinstance(inputs, Inputs | None) else Inputs(inputs)
    drafts = {mode: subject.draft(mode, given) for mode in modes}
    return subject.trace_of(drafts, NO_INPUTS if given is None else given)


@dataclass(frozen=True)
class Draft:
    """One mode's graph on certain inputs, with the constants that it refers to."""

    graph: fx.Graph
    constants: dict[str, torch.Tensor]
    fixed_arguments: Mapping[str, Any]
    calls: Calls
    settings: Mapping[tuple[str, str], Any]
    checkpoints: Collection[str] = ()
    hooks: Collection[int] = ()
    in_turn: bool = False
    notes: bool = False


class Subject:
    """A model under trace: its alias, and what tracing it has found out so far."""

    def __init__(self, model: nn.Module, whole: Collection[str] | None = None) -> None:
        self.skeleton = calling_what_they_wrap(alias(model))
        self.first_convolution: nn.Module | None = None
        self._follows_hooks = False
        # The model's own modules, which no code of the skeleton should reach.
        self._strangers = frozenset(map(id, model.modules())) - frozenset(map(id, self.skeleton.modules()))
        self._leaves = Leaves()
        self._notes_settings = whole is not None
        self._leaves.keep_whole(self.skeleton.get_submodule(path) for path in whole or ())

    def draft(self, mode: str, inputs: Inputs | None) -> Draft:
        """The graph of `mode`, "train" or "eval".

        Where code asks whether a value wants a gradient (most does to decide on a checkpoint, which no graph has), the
        graph that the contrary answers give says whether it matters.

        Raises:
            SizeError: naming the node that does not run on these inputs.
            TraceError: naming the line at which the model cannot be followed.

        """
        made = self._draft_anywhere(mode, inputs)
        asked = guards_of_gradients(made.graph)
        if not asked:
            return made
        try:
            other = self._draft_anywhere(mode, inputs, gradients="all")
        except TraceError:  # The code goes another way there.
            return made
        if not same_but_for_guards(made.graph, other.graph):
            return self._draft_anywhere(mode, inputs, gradients="trained") if mode == "train" else made
        erase_guards(made.graph, asked)
        return replace(made, checkpoints=tuple(dict.fromkeys((*made.checkpoints, *other.checkpoints))))

    def _draft_anywhere(self, mode: str, inputs: Inputs | None, *, gradients: Gradients = "none") -> Draft:
        """The draft without the guards of a device, where the code does the same on another one."""
        made = self._draft(mode, inputs, gradients=gradients)
        asked = guards_of_devices(made.graph, DEVICE_FACTS)
        if asked:
            try:
                with warnings.catch_warnings():
                    # What this machine has not (an autocast of another device) is no news of the model.
                    warnings.simplefilter("ignore")
                    other = self._draft(mode, inputs, gradients=gradients, elsewhere=True)
            except TraceError:  # The code goes another way there.
                return made
            if same_but_for_guards(made.graph, other.graph):
                erase_guards(made.graph, asked)
        return made

    def _draft(
        self, mode: str, inputs: Inputs | None, *, gradients: Gradients = "none", elsewhere: bool = False
    ) -> Draft:
        given = None if inputs is None else inputs.on_meta()
        without_hooks: TraceError | None = None
        loaded: set[str] | None = set(sys.modules)
        while True:
            tracer = Tracer(
                self.skeleton,
                self._leaves,
                given,
                mode,
                follows_hooks=self._follows_hooks,
                notes_settings=self._notes_settings,
                strangers=self._strangers,
                gradients=gradients,
                elsewhere=elsewhere,
            )
            try:
                tracer.run()
                if tracer.hooks.left_out and _gives_nothing(tracer.graph):
                    self._follows_hooks = True
                    continue
                return Draft(
                    tracer.graph,
                    tracer.constants,
                    tracer.fixed_arguments,
                    tracer.stack.calls,
                    tracer.settings,
                    tuple(tracer.checkpoints),
                    tracer.hooks.working,
                    tracer.works_in_turn,
                    tracer.has_noted,
                )
            except StaysWhole as request:
                self._leaves.close(request.module)
            except KeepsSomething as request:
                self._leaves.follow(request.module)
            except Exception as error:
                if loaded is not None and sys.modules.keys() > loaded:
                    # What a forward imports when it first runs was not made ready for it.
                    loaded = None
                    continue
                culprit = next((m for m in reversed(tracer.open_modules) if self._leaves.can_close(m)), None)
                if culprit is not None:
                    self._leaves.close(culprit)
                    continue
                self.first_convolution = tracer.first_convolution
                if without_hooks is not None:
                    self._follows_hooks = False
                    raise without_hooks from error
                explained = self._explained(error, tracer, given)
                if not tracer.hooks.left_out:
                    raise explained from error
                without_hooks, self._follows_hooks = explained, True

    def watched(self, inputs: Inputs) -> Draft | None:
        """The data flow of one run in eval mode on these very inputs; None if the model does not run on them.

        Hooks are left out, and gradients not kept, unless the model does not run so, or gives nothing.
        """
        for gradients in (False, True):
            for follows_hooks in (False, True):
                watch = Watch(
                    self.skeleton,
                    self._leaves,
                    inputs,
                    "eval",
                    follows_hooks=follows_hooks,
                    strangers=self._strangers,
                )
                try:
                    with torch.set_grad_enabled(gradients):
                        watch.run()
                    runs = True
                except Exception:
                    # Another way may do; if none does, why there is no graph is the reason.
                    runs = False
                if runs and not (watch.hooks.left_out and _gives_nothing(watch.notes.graph)):
                    notes = watch.notes
                    return Draft(notes.graph, notes.constants, watch.fixed_arguments, notes.stack.calls, {})
                if not watch.hooks.left_out:
                    break
        return None

    def _explained(self, error: Exception, tracer: Tracer, inputs: Inputs | None) -> TraceError:
        if isinstance(error, TraceError):
            return error
        if tracer.failed is None or inputs is None or is_data_dependent(error):
            return CodeError(self.skeleton, error, _traces_quietly)
        return SizeError(tracer.failed, inputs.sizes, error)

    def trace_of(self, drafts: Mapping[str, Draft], inputs: Inputs, *, any_size: bool = True) -> Trace:
        """The trace of the modes' drafts."""
        constants = {name: value for draft in drafts.values() for name, value in draft.constants.items()}
        fixed = {name: value for draft in drafts.values() for name, value in draft.fixed_arguments.items()}
        for draft in drafts.values():
            note_owners(self.skeleton, draft.graph, draft.calls)
        graphs = {mode: draft.graph for mode, draft in drafts.items()}
        calls = {mode: draft.calls for mode, draft in drafts.items()}
        settings = settings_of({mode: draft.settings for mode, draft in drafts.items()})
        return Trace(
            self.skeleton,
            graphs,
            constants,
            inputs,
            fixed,
            any_size,
            calls=calls,
            settings=settings,
            checkpoints=tuple(dict.fromkeys(path for draft in drafts.values() for path in draft.checkpoints)),
            hooks=frozenset(key for draft in drafts.values() for key in draft.hooks),
            in_turn=any(draft.in_turn for draft in drafts.values()),
            notes=any(draft.notes for draft in drafts.values()),
        )


def _gives_nothing(graph: fx.Graph) -> bool:
    """Whether nothing that the model is given reaches its output."""
    reached = {node for node in graph.nodes if node.op == "output"}
    for node in reversed(graph.nodes):
        if node in reached:
            reached.update(node.all_input_nodes)
    return not any(node.op == "placeholder" for node in reached)


def _traces_quietly(module: nn.Module) -> bool:
    try:
        graphs = [Subject(module).draft(mode, None).graph for mode in MODES]
    except Exception:
        # It is only asked whether to name the module, in a sentence about something else.
        return False
    # A scope takes and gives maps; something that only collects other modules has no placeholder to patch behind.
    return all(any(node.op == "placeholder" for node in graph.nodes) for graph in graphs)
