"""A model read once: its trace with shapes, and its sites. Everything that plans or rewrites starts here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from .aliasing import alias
from .errors import PlanError
from .injected import InjectedModule
from .preparing import materialised, unwrap
from .shapes import annotate
from .sites import Located, locate
from .tracing import Trace, trace
from .types import DEFAULT_KINDS, KINDS, Kind


@dataclass(frozen=True)
class Reading:
    """A model, the part of it that is patched (`scope`, or all of it), and the sites of some kinds found there."""

    model: nn.Module
    scope: str | None
    kinds: tuple[Kind, ...]
    trace: Trace
    located: Located


def read(
    model: nn.Module,
    *,
    example_inputs: Any = None,
    input_size: int | Iterable[int] | None = None,
    kinds: Sequence[Kind] = DEFAULT_KINDS,
    scope: str | None = None,
) -> Reading:
    """Trace `model` (or its submodule `scope`) in both modes and find its sites. The model is left as it was.

    Args:
        example_inputs: a tensor, or a tuple with one value per argument; only shapes and dtypes are used.
        input_size: (channels, *spatial) or (*spatial) of one input, or one number for a square; guessed if None.

    Raises:
        TraceError: the model cannot be traced, or no input size fits it.
        PlanError: an unknown kind, or a scope that is no submodule.

    """
    kinds = checked_kinds(kinds)
    inputs = _as_tuple(example_inputs)
    model = materialised(unwrap(model), inputs if scope is None else None)
    part = submodule(model, scope)
    traced = retrace(part) if isinstance(part, InjectedModule) else trace(part, inputs=inputs or ())
    shape = (input_size,) if isinstance(input_size, int) else input_size
    traced = annotate(traced, example_inputs=inputs, input_size=shape)
    return Reading(model, scope, kinds, traced, locate(traced, kinds))


def retrace(patched: InjectedModule) -> Trace:
    """The trace of a patched model: its own graphs, which know their blocks, over an alias of its modules."""
    import copy

    skeleton = alias(patched)
    graphs = {mode: copy.deepcopy(patched.graph_of(mode)) for mode in ("eval", "train")}
    return Trace(skeleton, graphs, {})


def shaped_graph(patched: InjectedModule, mode: str, example_inputs: Any = None) -> fx.Graph:
    """The graph of `mode` with the shapes of its values, which a model that was unpickled has lost."""
    graph = patched.graph_of(mode)
    if example_inputs is None and "val" in next(iter(graph.nodes)).meta:
        return graph
    return read(patched, example_inputs=example_inputs).trace.graphs[mode]


def submodule(model: nn.Module, scope: str | None) -> nn.Module:
    """The submodule at path `scope`; the model itself for None or "".

    Raises:
        PlanError: no such path, with the nearest ones.

    """
    if not scope:
        return model
    try:
        return model.get_submodule(scope)
    except AttributeError:
        import difflib

        near = difflib.get_close_matches(scope, [name for name, _ in model.named_modules() if name], 3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise PlanError(f"scope {scope!r} is no submodule of {type(model).__name__}{hint}") from None


def checked_kinds(kinds: Sequence[Kind] | str) -> tuple[Kind, ...]:
    """The kinds as a tuple, in their usual order.

    Raises:
        PlanError: a kind that does not exist, or none at all.

    """
    given = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    unknown = [kind for kind in given if kind not in KINDS]
    if unknown or not given:
        raise PlanError(f"kinds are {', '.join(KINDS)}; got {', '.join(map(str, unknown)) or 'none'}")
    return tuple(kind for kind in KINDS if kind in given)


def _as_tuple(example_inputs: Any) -> tuple[Any, ...] | None:
    if example_inputs is None:
        return None
    return tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
