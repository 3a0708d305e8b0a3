"""Which axis of every value is the channel axis: 1 after a convolution, last in channels-last parts of a network.

Rules, applied in graph order:
 1. A convolution, and a norm or pool that works on (N, C, *spatial), puts channels at axis 1. A map without a batch
    axis, one with more axes than the layer works on (steps of time in front, which a class of somebody's own folds into
    the batch), and one whose axis 1 has not as many channels as the layer, where another has, leave it unknown; where
    that is the last axis, it is that.
 2. `permute` and `transpose` carry the axis along; `flatten`, `view` and `reshape` keep it where its extent stays, or
    where a batch that was folded into the channels comes out of them again (StyleGAN2's convolutions). A channel axis
    that `unflatten` divides is the last of its parts: the channels within each group.
 3. A linear layer or layer norm over the last axis puts channels last, where the input does not say otherwise.
 4. Matrix products between two values leave the axis unknown; an `einsum` that only scales one of its operands, letter
    by letter, has that one's.
 5. Everything else keeps the axis of its first input, where rank and extent stay (a gated linear unit halves it); an
    unknown function that gives a tuple leaves it unknown. A concat or a stack whose first part is unknown has the axis
    of the first that is known.
 6. Axes that come and go move it: `stack` puts one in front of it or behind, `sum`, `mean`, `amax`, `unbind` and an
    index take one away. Where they take the channels, it is unknown.
 7. A `view` or `reshape` that gives back the shape from before an earlier one, with nothing between them but what keeps
    each number in its place, has the axis from before: norms over groups of channels, or over parts of a batch. So has
    one after a `permute` of the parts into which the earlier one divided the channels, and of nothing else: a shuffle.
 8. Where channels stand at the end neither behind one axis nor last, what is in front of them may be a batch, steps of
    time or groups: unknown.
None means unknown: such a value is never gated.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx, nn

from ..tracing.nodes import value_of
from .operations import Operations, axes_of, name_of, parts_of
from .vocabulary import WITH_MORE

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
# By how many axes (N, C, *spatial) has.
_BY_RANK = {
    axes + 2: tuple(
        getattr(nn, f"{kind}{axes}d")
        for kind in ("Conv", "ConvTranspose", "BatchNorm", "MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool")
    )
    for axes in (1, 2, 3)
}
_UNKNOWN = -1
# Products that mix positions: what comes out is sorted by heads and tokens until a layer says otherwise.
_MIXING = (
    "matmul",
    "bmm",
    "baddbmm",
    "einsum",
    "scaled_dot_product_attention",
    "__matmul__",
    "multi_head_attention_forward",
)
_PERMUTATIONS = ("permute", "transpose", "swapaxes", "movedim", "moveaxis")
_RESHAPES = ("view", "reshape", "flatten", "unflatten")
_REDUCTIONS = ("sum", "mean", "amax", "amin", "logsumexp", "prod", "std", "var")
_CHANNELS_FIRST_NAMES = ("conv1d", "conv2d", "conv3d", "batch_norm", "group_norm")


def channel_axes(operations: Operations, graph: fx.Graph) -> dict[fx.Node, int | None]:
    """The channel axis of every data-carrying tensor of the graph."""
    axes: dict[fx.Node, int | None] = {}
    for node in graph.nodes:
        if operations.carries[node]:
            axes[node] = _axis(operations, node, axes)
    return axes


def gateable_axes(operations: Operations, graph: fx.Graph) -> dict[fx.Node, int | None]:
    """The same, with rule 8."""

    def is_clear(value: Any, axis: int | None) -> bool:
        return not isinstance(value, torch.Tensor) or axis in (1, value.dim() - 1)

    return {
        node: axis if is_clear(value_of(node), axis) else None for node, axis in channel_axes(operations, graph).items()
    }


def _axis(operations: Operations, node: fx.Node, axes: dict[fx.Node, int | None]) -> int | None:
    value = value_of(node)
    if node.op == "placeholder":
        return 1
    if not operations.sources(node):
        # An output that hangs on no map (keypoints, codes, a constant).
        return None
    if isinstance(value, (tuple, list)):
        return _of_items(operations, node, axes)
    if not isinstance(value, torch.Tensor):
        return None
    if (settled := _settled(operations, node, value.shape)) is not None:
        return None if settled == _UNKNOWN else settled
    if name_of(node) == "einsum" and (scaled := _scaled(node)) is not None:
        return axes.get(scaled)
    if name_of(node) in _MIXING:
        return None
    first = operations.sources(node)[0]
    if name_of(node) == "stack" or operations.is_concatenation(node):
        first = next((part for part in parts_of(node) if axes.get(part) is not None), first)
    before = value_of(first)
    axis = axes.get(first)
    if axis is not None and not isinstance(before, torch.Tensor):
        # An item of a tuple: the axis is that of the items.
        return axis if axis < value.dim() else None
    carried = None if axis is None else _carried(operations, node, axis, before, value)
    if carried is None and name_of(node) in _RESHAPES:
        earlier = _undone(operations, node)
        return axes.get(earlier) if earlier is not None else _shuffled(operations, node, axes)
    return carried


def _undone(operations: Operations, node: fx.Node) -> fx.Node | None:
    """Rule 7: what an earlier reshape took apart, which this one puts together again."""
    step = operations.sources(node)[0]
    shape = value_of(step).shape
    while name_of(step) not in _RESHAPES:
        if operations.is_rearrangement(step) or name_of(step) in _MIXING:
            return None
        alike = [source for source in operations.sources(step) if getattr(value_of(source), "shape", None) == shape]
        if not alike:
            return None
        step = alike[0]
    earlier = operations.sources(step)[0]
    return earlier if getattr(value_of(earlier), "shape", None) == value_of(node).shape else None


def _shuffled(operations: Operations, node: fx.Node, axes: dict[fx.Node, int | None]) -> int | None:
    """Rule 7: the channel axis, whose parts were permuted among themselves since it was divided into them."""
    steps = [node]
    while len(steps) < 4 and len(sources := operations.sources(steps[-1])) == 1:
        if name_of(sources[0]) != "contiguous":
            steps.append(sources[0])
        else:
            steps[-1] = sources[0]
    if len(steps) < 4 or name_of(steps[1]) not in _PERMUTATIONS or name_of(steps[2]) not in _RESHAPES:
        return None
    whole, divided = value_of(steps[3]), value_of(steps[2])
    axis, order = axes.get(steps[3]), _order(steps[1], name_of(steps[1]), divided.dim())
    if axis is None or order is None or getattr(whole, "shape", None) != value_of(node).shape:
        return None
    end = axis + 1 + divided.dim() - whole.dim()
    same = divided.shape[:axis] == whole.shape[:axis] and divided.shape[end:] == whole.shape[axis + 1 :]
    stay = all(order[place] == place for place in (*range(axis), *range(end, divided.dim())))
    return axis if same and stay else None


def _scaled(node: fx.Node) -> fx.Node | None:
    """Rule 4: the operand of an `einsum` whose letters are those of the result, where no letter is summed over."""
    equation, *operands = node.args
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = list(operands[0])
    given, arrow, made = str(equation).replace(" ", "").partition("->")
    terms = given.split(",")
    if not arrow or any(set(term) - set(made) for term in terms):
        return None
    alike = [operand for term, operand in zip(terms, operands, strict=False) if term == made]
    return next((operand for operand in alike if isinstance(operand, fx.Node)), None)


def _settled(operations: Operations, node: fx.Node, shape: torch.Size) -> int | None:
    """Rules 1 and 3: layers that put the channels somewhere, whatever came in; `_UNKNOWN` where none can tell."""
    module = operations.module(node) if node.op == "call_module" else None
    name, rank = name_of(node), len(shape)
    if isinstance(module, _CHANNELS_FIRST):
        return _as_the_layer_has_it(module, shape)
    if name in ("conv1d", "conv2d", "conv3d") and rank != int(name[4]) + 2:
        return _UNKNOWN
    if name in _CHANNELS_FIRST_NAMES or operations.holds_convolution(node):
        return 1
    if rank > 2 and (isinstance(module, nn.Linear) or name == "linear"):
        return rank - 1
    return None


def _as_the_layer_has_it(module: nn.Module, shape: torch.Size) -> int:
    """Rule 1, for a layer of torch's or a class made of one."""
    own = next((rank for rank, kinds in _BY_RANK.items() if isinstance(module, kinds)), len(shape))
    if len(shape) != own and not (isinstance(module, nn.BatchNorm1d) and len(shape) == 2):
        return _UNKNOWN
    held = [getattr(module, name, None) for name in ("out_channels", "num_features", "num_channels")]
    channels = next((count for count in held if isinstance(count, int)), None)
    if channels is None or channels not in shape or shape[1] == channels:
        return 1
    return len(shape) - 1 if list(shape).count(channels) == 1 and shape[-1] == channels else _UNKNOWN


def _carried(operations: Operations, node: fx.Node, axis: int, before: torch.Tensor, value: torch.Tensor) -> int | None:
    """Rules 2 and 5."""
    if axis >= before.dim():
        return None
    name = name_of(node)
    if name in _PERMUTATIONS:
        return _moved(node, name, axis, before.dim())
    if (changed := _changed(node, name, axis, before.dim(), value.dim())) is not None:
        return changed if changed >= 0 else None
    if value.dim() == before.dim() and (not operations.is_rearrangement(node) or value.shape == before.shape):
        known = node.op == "call_method" or operations.is_slice(node) or operations.is_concatenation(node)
        known = known or name == "glu" or (node.op == "call_module" and isinstance(operations.module(node), nn.GLU))
        return axis if known or value.shape[axis] == before.shape[axis] else None
    return _reshaped(axis, before.shape, value.shape)


def _of_items(operations: Operations, node: fx.Node, axes: dict[fx.Node, int | None]) -> int | None:
    """The axis within each item of a tuple that a split gives; `unbind` takes an axis away (rule 6)."""
    source = operations.sources(node)[0]
    axis = axes.get(source) if operations.is_slice(node) or name_of(node) in WITH_MORE else None
    before = value_of(source)
    if axis is None or name_of(node) != "unbind" or not isinstance(before, torch.Tensor):
        return axis
    left = _without(axis, {_axis_argument(node, 0) % before.dim()})
    return left if left >= 0 else None


def _changed(node: fx.Node, name: str, axis: int, rank: int, new_rank: int) -> int | None:
    """Rule 6, and `unflatten` of rule 2: the axis, or -1 where the channels are gone; None for other operations."""
    if name == "stack":
        return axis + (_axis_argument(node, 0) % new_rank <= axis)
    if name == "unflatten":
        divided, parts = _axis_argument(node, 0) % rank, new_rank - rank
        return axis + (parts if divided <= axis else 0)
    if name in ("getitem", "__getitem__"):
        index = node.args[1]
        return _indexed(index if isinstance(index, tuple) else (index,), axis, rank)
    if new_rank >= rank:
        return None
    if name in _REDUCTIONS:
        return _without(axis, {a % rank for a in axes_of(node)})
    return _without(axis, {_axis_argument(node, 0) % rank}) if name == "select" else None


def _without(axis: int, gone: set[int]) -> int:
    return -1 if axis in gone else axis - sum(a < axis for a in gone)


def _indexed(index: tuple[Any, ...], axis: int, rank: int) -> int | None:
    """Where slices, numbers and new axes put the axis; None where the index is made of anything else."""
    if not all(part is None or part is Ellipsis or isinstance(part, (int, slice)) for part in index):
        return None
    spread = rank - sum(part is not Ellipsis and part is not None for part in index)
    old = new = 0
    for part in index:
        if part is None:
            new += 1
            continue
        width = spread if part is Ellipsis else 1
        if old <= axis < old + width:
            return -1 if isinstance(part, int) else new + axis - old
        old += width
        new += 0 if isinstance(part, int) else width
    return new + axis - old


def _axis_argument(node: fx.Node, default: int) -> int:
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", default))
    return axis if isinstance(axis, int) else default


def _moved(node: fx.Node, name: str, axis: int, rank: int) -> int | None:
    order = _order(node, name, rank)
    return order.index(axis) if order is not None and axis in order else None


def _order(node: fx.Node, name: str, rank: int) -> list[int] | None:
    """Which axis a permutation puts at each place; None where its arguments are no numbers."""
    arguments: list[Any] = [*node.args[1:], *(v for k, v in node.kwargs.items() if k != "input")]
    if len(arguments) == 1 and isinstance(arguments[0], (tuple, list)):
        arguments = list(arguments[0])
    flat = [a for a in arguments if isinstance(a, int)]
    if len(flat) != len(arguments):
        return None
    if name == "permute":
        return [a % rank for a in flat]
    order = list(range(rank))
    a, b = flat[0] % rank, flat[1] % rank
    if name in ("transpose", "swapaxes"):
        order[a], order[b] = order[b], order[a]
    else:
        order.insert(b, order.pop(a))
    return order


def _reshaped(axis: int, before: torch.Size, after: torch.Size) -> int | None:
    """The axis that starts at the same element offset with the same extent; or that of channels of one image, which the
    batch was folded into (a convolution with kernels of its own for each image), once they are a batch again.
    """
    if axis == 1 and before[0] == 1 and after[2:] == before[2:] and math.prod(after[:2]) == before[1]:
        return 1
    front = math.prod(before[:axis])
    for new, extent in enumerate(after):
        if extent == before[axis] and math.prod(after[:new]) == front:
            return new
    return None
