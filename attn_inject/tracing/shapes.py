"""Graphs whose nodes know their values: traced at a size that the model takes, or run again on meta tensors."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import fx, nn

from ..errors import AttnInjectError, TraceError
from .explain import CodeError, SizeError
from .guards import erase_guards, guards_of, idle_guards, needs_more_sizes, same_graph
from .inputs import Inputs, Signature, dtype_of
from .propagation import propagate
from .trace import MODES, Draft, Subject, Trace
from .usual_sizes import Convolution, candidate_shapes, first_convolution

_MAX_ELEMENTS = 2**40
# How a second image is made larger, which shows what depends on its size: (times, plus). Twice the size divides as the
# size does; a network of fixed size still takes another batch.
_GROWTHS = ((2, 0), (1, 64), (1, 0))
_FURTHER = ((3, 0), (5, 0))
# Of the inputs that are made where none are given: norms in train mode want more than one.
BATCH = 2


def trace_at_a_size(
    model: nn.Module,
    *,
    inputs: Inputs | None = None,
    input_size: Iterable[int] | None = None,
    batch: int = BATCH,
    whole: Collection[str] | None = None,
) -> Trace:
    """Trace both modes of `model` on inputs that it takes; without an image size, on the first usual one that runs.

    `input_size` is (channels, *spatial) or (*spatial) of one image. Without either, the channels and rank come from the
    first convolution and the size from the model's configuration, or from a few usual sizes until one runs through.
    Where the model's code decided on sizes, a second trace at another size says whether the graphs depend on it.
    `whole` are paths of submodules that stay single calls.

    Raises:
        TraceError: naming the node that no input size satisfies, or the line that cannot be followed.

    """
    subject = Subject(model, whole)
    if inputs is None:
        inputs, first = _at_a_usual_size(subject, input_size, batch)
    else:
        first = subject.draft("eval", inputs)
    drafts = {"eval": first, "train": _train(subject, inputs)}
    return subject.trace_of(drafts, inputs.on_meta(), any_size=_is_free_of_size(subject, drafts, inputs))


def _at_a_usual_size(subject: Subject, input_size: Iterable[int] | None, batch: int) -> tuple[Inputs, Draft]:
    place = _only_place(subject.skeleton)
    conv = first_convolution(subject.skeleton)
    failure: TraceError | None = None
    code_error: CodeError | None = None
    pending = inputs_to_try(subject.skeleton, conv, input_size, place, batch)
    while (inputs := next(pending, None)) is not None:
        try:
            return inputs, subject.draft("eval", inputs)
        except SizeError as error:
            failure = failure or error
        except CodeError as error:
            # The same line again: it is not the size that it minds.
            if error.is_hopeless or (code_error is not None and code_error.stopped == error.stopped):
                raise
            code_error = error
            failure = failure or error
        found = subject.first_convolution
        if isinstance(found, Convolution) and conv is not None and found is not conv:
            # Another one runs first than is held first.
            if (found.in_channels, found.kernel_size) != (conv.in_channels, conv.kernel_size):
                pending = inputs_to_try(subject.skeleton, found, input_size, place, batch)
            conv = found
    raise failure or TraceError("no input size fits the model: pass input_size or example_inputs")


def _only_place(model: nn.Module) -> str | None:
    """The name of the one input if it is given by name; None if it is given by position.

    Raises:
        TraceError: the model takes several inputs, or none.

    """
    signature = Signature.of(model.forward, None)
    names = [name for name, _ in (*signature.positional, *signature.named)]
    _must_be_one(names)
    return None if signature.positional else names[0]


def _must_be_one(names: list[str]) -> None:
    if len(names) != 1:
        raise TraceError(
            f"the model takes {len(names)} inputs ({', '.join(names) or 'none'}): "
            "pass example_inputs with one value for each, as NAME=SIZE on the command line"
        )


def inputs_to_try(
    model: nn.Module,
    conv: nn.Module | None = None,
    input_size: Iterable[int] | None = None,
    place: str | None = None,
    batch: int = BATCH,
) -> Iterator[Inputs]:
    """Images of the sizes that `model` may take, as `candidate_shapes` has them, for the argument `place` or the first.

    Raises:
        TraceError: a size that no network takes.

    """
    conv = conv or first_convolution(model)
    dtype = dtype_of(model)
    for shape in candidate_shapes(model, conv, input_size):
        if min(shape) < 1 or math.prod(shape) > _MAX_ELEMENTS:
            raise TraceError(
                f"no network takes an input of shape {'x'.join(map(str, shape[1:]))}: choose another input_size"
            )
        image = torch.empty((batch, *shape[1:]), dtype=dtype, device="meta")
        yield Inputs((image,)) if place is None else Inputs(named={place: image})


def _train(subject: Subject, inputs: Inputs) -> Draft:
    try:
        return subject.draft("train", inputs)
    except (SizeError, CodeError) as failure:
        if getattr(failure, "is_hopeless", False):
            raise
        for other in _for_train(subject.skeleton, first_convolution(subject.skeleton), inputs):
            try:
                return subject.draft("train", other)
            except (SizeError, CodeError):
                continue
        raise


def _for_train(model: nn.Module, conv: nn.Module | None, inputs: Inputs) -> Iterator[Inputs]:
    """What train mode may run on where `inputs` do for eval mode only: auxiliary heads want larger images."""
    if len(inputs.values) != 1 or not inputs.tensors:
        return
    (image,) = inputs.tensors
    for shape in candidate_shapes(model, conv, None):
        other = torch.empty(shape, dtype=image.dtype, device="meta")
        yield inputs.map(lambda _, other=other: other)  # type: ignore[misc]


def _is_free_of_size(subject: Subject, drafts: Mapping[str, Draft], inputs: Inputs) -> bool:
    """Whether the graphs are the same at another size and batch; guards that then decide nothing are taken out."""
    if not any(guards_of(draft.graph) for draft in drafts.values()):
        return True
    for growth in _GROWTHS:
        others = _drafts_at(subject, drafts, inputs.resized(*growth))
        if others is None:
            continue
        if not all(_same(drafts[mode], others[mode]) for mode in drafts):
            return False
        idle = {mode: idle_guards(draft.graph, others[mode].graph) for mode, draft in drafts.items()}
        if any(needs_more_sizes(guard) for guards in idle.values() for guard in guards):
            # A number may still come to something else than these two.
            for further in _FURTHER:
                others = _drafts_at(subject, drafts, inputs.resized(*further))
                if others is not None and not all(_same(drafts[mode], others[mode]) for mode in drafts):
                    return False
        for mode, draft in drafts.items():
            erase_guards(draft.graph, idle[mode])
        return growth != (1, 0)
    return False


def _drafts_at(subject: Subject, modes: Iterable[str], inputs: Inputs) -> dict[str, Draft] | None:
    try:
        return {mode: subject.draft(mode, inputs) for mode in modes}
    except AttnInjectError:
        return None


def _same(one: Draft, other: Draft) -> bool:
    return same_graph(one.graph, other.graph) and all(
        tensor.shape == other.constants[name].shape and (tensor.is_meta or torch.equal(tensor, other.constants[name]))
        for name, tensor in one.constants.items()
    )


def annotate(trace: Trace, *, inputs: Inputs | None = None, input_size: Iterable[int] | None = None) -> Trace:
    """Give every node of graphs that are there already its value; returns the trace with its inputs (on meta).

    Raises:
        TraceError: naming the node that no input size satisfies.

    """
    if inputs is not None:
        inputs = inputs.on_meta()
        _propagate_all(trace, inputs)
        return replace(trace, inputs=inputs)
    graph = next(iter(trace.graphs.values()))
    _must_be_one([node.name for node in graph.nodes if node.op == "placeholder"])
    failure: Exception | None = None
    for tried in inputs_to_try(trace.skeleton, _first_called(trace), input_size):
        try:
            _propagate_all(trace, tried)
            return replace(trace, inputs=tried)
        except TraceError as error:
            failure = failure or error
    raise failure or TraceError("no input size fits the model: pass input_size or example_inputs")


def _first_called(trace: Trace) -> nn.Module | None:
    graph = next(iter(trace.graphs.values()))
    for node in graph.nodes:
        if node.op == "call_module":
            for module in trace.skeleton.get_submodule(node.target).modules():
                if isinstance(module, Convolution):
                    return module
    return first_convolution(trace.skeleton)


def _propagate_all(trace: Trace, inputs: Inputs) -> None:
    flags = {module: module.training for module in trace.skeleton.modules()}
    try:
        for mode in [mode for mode in MODES if mode in trace.graphs]:
            for module in flags:
                module.training = mode == "train"
            _propagate_mode(trace, trace.graphs[mode], inputs, mode)
    finally:
        for module, flag in flags.items():
            module.training = flag


def _propagate_mode(trace: Trace, graph: fx.Graph, inputs: Inputs, mode: str) -> None:
    try:
        propagate(trace.skeleton, graph, inputs.values, trace.constants)
    except TraceError:
        for other in _for_train(trace.skeleton, _first_called(trace), inputs) if mode == "train" else ():
            try:
                propagate(trace.skeleton, graph, other.values, trace.constants)
                return
            except TraceError:
                continue
        raise
