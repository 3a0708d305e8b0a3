"""A model read once: its graphs with shapes, and its sites. Everything that plans or rewrites starts here."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from ..errors import PlanError, TraceError, must_be, nearest
from ..tracing.alias import alias
from ..tracing.calls import inputs_in_place
from ..tracing.compiled import as_written
from ..tracing.face import is_of_numbers
from ..tracing.injected import InjectedModule
from ..tracing.input_forms import InputForms
from ..tracing.inputs import Inputs, given_inputs, must_fit
from ..tracing.nodes import has_value
from ..tracing.prepare import materialised, must_have_forward, unwrap, wrapped_by
from ..tracing.recording import record
from ..tracing.regions import ordinary_mode
from ..tracing.shapes import BATCH, annotate, inputs_to_try, trace_at_a_size
from ..tracing.trace import MODES, Trace
from ..tracing.usual_sizes import shape_asked
from ..types import DEFAULT_KINDS, Injection, Insertion, Kind, Sites
from .found import GraphSites
from .kinds import checked_kinds
from .select import locate


@dataclass(frozen=True)
class LocatedModel:
    """A model, the part of it that is patched (`scope`, or all of it), and the sites of some kinds found there.

    `sites` is what people see; `graphs` has the same sites with their nodes, in the graph of each mode. `without` names
    what was around the model.
    """

    model: nn.Module
    scope: str | None
    kinds: tuple[Kind, ...]
    trace: Trace
    sites: Sites
    graphs: dict[str, GraphSites]
    without: tuple[str, ...] = ()

    @property
    def part(self) -> nn.Module:
        """The submodule at `scope`; the model itself without one."""
        return submodule(self.model, self.scope)

    @property
    def patched_part(self) -> InjectedModule | None:
        """The part, if an earlier injection made it."""
        return self.part if isinstance(self.part, InjectedModule) else None

    @property
    def earlier(self) -> tuple[Insertion, ...]:
        """What earlier injections put into the part, or was attached to it."""
        if self.patched_part is not None:
            return self.patched_part.injection.plan.insertions
        last = vars(self.model).get("injection")
        records = (*last.others, last) if isinstance(last, Injection) else ()
        return next((each.plan.insertions for each in records if each.plan.scope == self.scope), ())


def find_sites(
    model: nn.Module,
    *,
    example_inputs: Any = None,
    input_size: int | Iterable[int] | None = None,
    kinds: Sequence[Kind] = DEFAULT_KINDS,
    scope: str | None = None,
) -> Sites:
    """The model's sites in execution order; `.skipped` has every other add and concat with its reason.

    Nothing is computed and the model is left as it was; only a model whose code decides on data, and so has no graph,
    is run once, as an alias in eval mode (`Sites.recorded` says why). A block that is run several times in one forward
    pass is one site (`Site.calls`), since its attention, like its weights, is shared.

    >>> from attn_inject import find_sites
    >>> from attn_inject.zoo.cifar import models
    >>> sites = find_sites(models()["resnet20"](), input_size=32)
    >>> len(sites), len(sites.skipped)
    (9, 0)
    >>> sites[3].block, sites[3].kind, sites[3].channels, sites[3].size, sites[3].stage
    ('layer2.0', 'residual', 32, (16, 16), 1)

    Args:
        example_inputs: a tensor, or a tuple with one value per argument; only shapes and dtypes are used.
        input_size: (channels, *spatial) or (*spatial) of one input, or one number; guessed from the model if None.
        kinds: any of "residual", "mixed", "plain", "stage" (see `inject`).
        scope: a submodule's path; only it is traced, on what the model around gives it, if that runs on an image of a
            usual size.

    Raises:
        TraceError: the model cannot be traced, nor run; names the line that stopped it.
        PlanError: an unknown kind, or a scope that is no submodule.

    """
    return read(
        model, example_inputs=example_inputs, input_size=input_size, kinds=kinds, scope=scope, may_record=True
    ).sites


@ordinary_mode()
@as_written()
def read(
    model: nn.Module,
    *,
    example_inputs: Any = None,
    input_size: int | Iterable[int] | None = None,
    batch: int = BATCH,
    kinds: Sequence[Kind] = DEFAULT_KINDS,
    scope: str | None = None,
    may_record: bool = False,
    no_graph: TraceError | None = None,
) -> LocatedModel:
    """Trace `model` (or its submodule `scope`) in both modes and find its sites; arguments and errors of `find_sites`.

    `batch` is that of the inputs which are made where none are given; `may_record` is whether the data flow of one run
    will do where there is no graph, and `no_graph` why a graph that there is would not. The model is left as it was.
    """
    how = _How(may_record=may_record, no_graph=no_graph)
    if not isinstance(example_inputs, InputForms):
        return _read(model, example_inputs, input_size, batch, checked_kinds(kinds), scope, how)
    failure: TraceError | None = None
    for inputs in example_inputs.alternatives(submodule(unwrap(model), scope), batch):
        try:
            return _read(model, inputs, None, batch, checked_kinds(kinds), scope, how)
        except TraceError as error:
            failure = failure or error
    raise failure or TraceError("no inputs are given")


@dataclass(frozen=True)
class _How:
    """How a model is read: see `read`."""

    may_record: bool
    no_graph: TraceError | None


def _read(
    model: nn.Module,
    example_inputs: Any,
    input_size: int | Iterable[int] | None,
    batch: int,
    kinds: tuple[Kind, ...],
    scope: str | None,
    how: _How,
) -> LocatedModel:
    model, without = unwrap(model), wrapped_by(model)
    inputs = given_inputs(submodule(model, scope), example_inputs)
    model = materialised(model, inputs if scope is None else None)
    part = submodule(model, scope)
    must_have_forward(part)
    shape = None if input_size is None else shape_asked(input_size)
    if scope:
        inputs = _as_in_place(part, inputs_in_place(model, scope), inputs, shape, batch)
    must_fit(part, inputs)
    if isinstance(part, InjectedModule):
        traced = annotate(retrace(part), inputs=inputs, input_size=shape)
    else:
        try:
            if how.no_graph is not None:
                raise how.no_graph
            traced = trace_at_a_size(part, inputs=inputs, input_size=shape, batch=batch)
        except TraceError as reason:
            if not how.may_record:
                raise
            traced = record(part, inputs or _of_size(part, shape), reason)
    found = locate(traced, kinds)
    return LocatedModel(model, scope, kinds, traced, found.sites, found.graphs, without)


def _as_in_place(
    part: nn.Module, called: Inputs | None, given: Inputs | None, shape: tuple[int, ...] | None, batch: int
) -> Inputs | None:
    """What a part is read on: `given`, or what the model around it gives it, with its one image in the shape asked for.

    None where that says no more than the shape does.
    """
    if called is None:
        return given
    if given is not None:
        names = list(inspect.signature(part.forward).parameters)
        taken = {*names[: len(given.positional)], *given.named}
        by_name = {**dict(zip(names, called.positional, strict=False)), **called.named}
        numbers = {name: value for name, value in by_name.items() if is_of_numbers(value) and name not in taken}
        fixed = {name: value for name, value in called.fixed.items() if name not in taken}
        return replace(given, named={**given.named, **numbers}, fixed=fixed)
    if shape is None or called.shape == (batch, *shape):
        return called
    if len(called.tensors) > 1 or not (called.fixed or called.named or len(called.values) > 1):
        return None
    image = next(inputs_to_try(part, input_size=shape, batch=batch)).positional[0]
    return called.map_tensors(lambda _: image)


def _of_size(part: nn.Module, shape: Iterable[int] | None) -> Inputs | None:
    return None if shape is None else next(inputs_to_try(part, input_size=shape))


def retrace(patched: InjectedModule) -> Trace:
    """The trace of a patched model: its own graphs, which know their blocks, over an alias of its modules."""
    graphs = {mode: copy.deepcopy(patched.graph_of(mode)) for mode in MODES}
    fixed = dict(patched.fixed)
    return Trace(alias(patched), graphs, {}, fixed_arguments=fixed, any_size=patched.injection.any_size)


def shaped_graph(model: nn.Module, mode: str, example_inputs: Any = None, *, scope: str = "") -> fx.Graph:
    """The graph of a patched part with the shapes of its values, which a model that was unpickled has lost.

    Raises:
        TraceError: the part does not run on `example_inputs`, or on what the model around gives it.

    """
    graph: fx.Graph = submodule(model, scope).graph_of(mode)  # type: ignore[operator]
    if example_inputs is None and has_value(next(iter(graph.nodes))):
        return graph
    return read(model, example_inputs=example_inputs, scope=scope or None).trace.graphs[mode]


def submodule(model: nn.Module, scope: str | None) -> nn.Module:
    """The submodule at path `scope`; the model itself for None or "".

    Raises:
        PlanError: no such path, with the nearest ones.

    """
    must_be("scope", scope, (str, type(None)), "the path of a submodule", PlanError)
    if not scope:
        return model
    try:
        return model.get_submodule(scope)
    except AttributeError:
        hint = nearest(scope, [name for name, _ in model.named_modules() if name], count=3)
        raise PlanError(f"scope {scope!r} is no submodule of {type(model).__name__}{hint}") from None
