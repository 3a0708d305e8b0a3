"""Shapes without arithmetic: run a graph on meta tensors and keep what every node gives (`nodes.value_of`).

Meta tensors hold shapes, strides and dtypes but no data, so nothing is computed and no weight is copied. Parameters are
replaced by meta stand-ins leaf by leaf; statistics that a norm would update in train mode too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_map

from ..errors import TraceError
from .nodes import set_value
from .tracer import Trace

_MAX_ELEMENTS = 2**40
# Their outputs look like their inputs; asking torch's meta kernels takes most of the time of a whole network.
_KEEP_SHAPE = {
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid,
    nn.Hardsigmoid, nn.LeakyReLU, nn.ELU, nn.Mish, nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.Identity,
}  # fmt: skip
_TRIAL_SIZES = (224, 256, 299, 32, 28, 64, 384, 512)
_TRIAL_SIZES_3D = (112, 32, 224, 64)
_TRIAL_SIZES_1D = (1024, 224, 128, 16000)


def annotate(
    trace: Trace, *, example_inputs: tuple[Any, ...] | None = None, input_size: Iterable[int] | None = None
) -> Trace:
    """Give every node of both graphs its value; returns the trace with its inputs (on the meta device, batch of 2).

    `input_size` is (channels, *spatial) or (*spatial) of one image. Without either, the channels and rank come from the
    first convolution and the size from the model's configuration, or from a few usual sizes until one runs through.

    Raises:
        TraceError: naming the node that no input size satisfies.

    """
    if example_inputs is not None:
        inputs = tuple(_to_meta(value) for value in example_inputs)
        _propagate_all(trace, inputs)
        return _with_inputs(trace, inputs)
    graph = next(iter(trace.graphs.values()))
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    if len(placeholders) != 1:
        names = ", ".join(node.name for node in placeholders) or "none"
        raise TraceError(
            f"the model takes {len(placeholders)} inputs ({names}): pass example_inputs with one value for each"
        )
    failure: Exception | None = None
    dtype = next((p.dtype for p in trace.skeleton.parameters() if p.is_floating_point()), torch.float32)
    for shape in _candidate_shapes(trace, input_size):
        if min(shape) < 1 or math.prod(shape) > _MAX_ELEMENTS:
            raise TraceError(
                f"no network takes an input of shape {'x'.join(map(str, shape[1:]))}: choose another input_size"
            )
        inputs = (torch.empty(shape, dtype=dtype, device="meta"),)
        try:
            _propagate_all(trace, inputs)
            return _with_inputs(trace, inputs)
        except TraceError as error:
            failure = failure or error
    raise failure or TraceError("no input size fits the model: pass input_size or example_inputs")


def _with_inputs(trace: Trace, inputs: tuple[Any, ...]) -> Trace:
    return Trace(trace.skeleton, trace.graphs, trace.constants, inputs, trace.fixed_arguments)


def _candidate_shapes(trace: Trace, input_size: Iterable[int] | None) -> list[tuple[int, ...]]:
    conv = _first_convolution(trace)
    channels, rank = (conv.in_channels, len(conv.kernel_size)) if conv is not None else (3, 2)
    if input_size is not None:
        size = (input_size,) * rank if isinstance(input_size, int) else tuple(input_size)
        if len(size) == 1 and rank > 1:
            size = size * rank
        return [(2, *(size if len(size) > rank else (channels, *size)))]
    shapes: list[tuple[int, ...]] = []
    configured = _configured_size(trace.skeleton)
    if configured is not None:
        shapes.append((2, *configured))
    for channel in dict.fromkeys((channels, 3, 1)):
        if rank == 3:
            shapes += [(2, channel, frames, s, s) for s in _TRIAL_SIZES_3D for frames in (16, 32)]
        else:
            shapes += [(2, channel, *(s,) * rank) for s in (_TRIAL_SIZES_1D if rank == 1 else _TRIAL_SIZES)]
    return shapes


def _configured_size(model: nn.Module) -> tuple[int, ...] | None:
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        size = config.get("input_size") if isinstance(config, dict) else getattr(config, "input_size", None)
        if size and all(isinstance(v, int) for v in size):
            return tuple(size)
    return None


def _first_convolution(trace: Trace) -> nn.modules.conv._ConvNd | None:
    graph = next(iter(trace.graphs.values()))
    for node in graph.nodes:
        if node.op == "call_module":
            for module in trace.skeleton.get_submodule(node.target).modules():
                if isinstance(module, nn.modules.conv._ConvNd):
                    return module
    return next((m for m in trace.skeleton.modules() if isinstance(m, nn.modules.conv._ConvNd)), None)


def _propagate_all(trace: Trace, inputs: tuple[Any, ...]) -> None:
    flags = {module: module.training for module in trace.skeleton.modules()}
    try:
        for mode, graph in trace.graphs.items():
            for module in flags:
                module.training = mode == "train"
            _propagate_mode(trace, graph, inputs, mode)
    finally:
        for module, flag in flags.items():
            module.training = flag


def _propagate_mode(trace: Trace, graph: fx.Graph, inputs: tuple[Any, ...], mode: str) -> None:
    try:
        propagate(trace.skeleton, graph, inputs, trace.constants)
    except TraceError:
        # Auxiliary heads want larger inputs than the network: what runs in eval mode only is still an input size.
        for shape in _candidate_shapes(trace, None) if mode == "train" and len(inputs) == 1 else []:
            try:
                other = torch.empty(shape, dtype=inputs[0].dtype, device="meta")
                propagate(trace.skeleton, graph, (other,), trace.constants)
                return
            except TraceError:
                continue
        raise


def propagate(
    root: nn.Module, graph: fx.Graph, inputs: tuple[Any, ...], constants: dict[str, torch.Tensor] | None = None
) -> Any:
    """Run `graph` of `root` on meta `inputs`; writes each node's value to `meta["val"]` and returns the output's."""
    made: dict[int, torch.Tensor] = {}

    def stand_in(tensor: torch.Tensor) -> torch.Tensor:
        return made.setdefault(id(tensor), _to_meta(tensor))

    env: dict[fx.Node, Any] = {}
    values = iter(inputs)

    def load(argument: Any) -> Any:
        return fx.node.map_arg(argument, lambda n: env[n])

    with torch.no_grad(), torch.device("meta"):
        for node in graph.nodes:
            try:
                env[node] = _run(node, root, constants or {}, values, load, stand_in)
            except TraceError:
                raise
            except Exception as error:
                sizes = ", ".join(str(tuple(x.shape)) for x in inputs if isinstance(x, torch.Tensor))
                raise TraceError(
                    f"node {node.name} ({node.target}) does not run on an input of shape {sizes}: "
                    f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}; "
                    "pass another input_size, or example_inputs"
                ) from error
            set_value(node, env[node])
    return env[node]


def _run(
    node: fx.Node,
    root: nn.Module,
    constants: dict[str, torch.Tensor],
    values: Any,
    load: Callable[[Any], Any],
    stand_in: Callable[[torch.Tensor], torch.Tensor],
) -> Any:
    args, kwargs = load(node.args), load(node.kwargs)
    match node.op:
        case "placeholder":
            return next(values)
        case "get_attr":
            value = constants.get(node.target) if isinstance(node.target, str) else None
            value = value if value is not None else _fetch(root, str(node.target))
            return stand_in(value) if isinstance(value, torch.Tensor) else value
        case "call_module":
            return _call_module(root.get_submodule(str(node.target)), args, kwargs, stand_in)
        case "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        case "call_function":
            args, kwargs = tree_map(_off_device, (args, kwargs))
            return node.target(*args, **kwargs)  # type: ignore[operator]
        case _:
            return args[0]


def _fetch(root: nn.Module, path: str) -> Any:
    value: Any = root
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _call_module(module: nn.Module, args: Any, kwargs: Any, stand_in: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Run one leaf on meta stand-ins of its tensors, without its hooks, and leave it as it was."""
    if type(module) in _KEEP_SHAPE and len(args) == 1 and not kwargs:
        width = getattr(module, "num_features", None)
        if width is not None and args[0].shape[1] != width:
            raise ValueError(f"expected {width} channels, got {args[0].shape[1]}")
        return torch.empty_like(args[0])
    held: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for part in module.modules():
        held.append((part._parameters, dict(part._parameters)))
        held.append((part._buffers, dict(part._buffers)))
        plain = {k: v for k, v in vars(part).items() if isinstance(v, torch.Tensor)}
        if plain:
            held.append((vars(part), plain))
    try:
        for home, tensors in held:
            home.update({k: stand_in(v) for k, v in tensors.items() if v is not None})
        return module.forward(*args, **kwargs)
    finally:
        for home, tensors in held:
            home.update(tensors)


def _to_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("meta")
    if isinstance(value, (tuple, list, dict)):
        return tree_map(lambda v: v.detach().to("meta") if isinstance(v, torch.Tensor) else v, value)
    return value


def _off_device(value: Any) -> Any:
    return torch.device("meta") if isinstance(value, torch.device) else value
