"""How much arithmetic one ATen operation is.

Two counts, never mixed:

* **MACs** are the multiply-accumulates of convolutions, linears, matrix products and attention products: what the
  papers call "FLOPs". They are half of what `torch.utils.flop_counter` counts, whose formulas are used, biases left
  out.
* **FLOPs** are all the arithmetic: two per MAC, plus the rules below for everything else.

The rules for the rest, per element, numbered as the tables below are:

1. A pointwise operation, whatever it computes (an add, a sigmoid, a hard-swish), is 1 per output element; those that
   do two things in one call (`addcmul`, `lerp`) are 2. A bias of a convolution or linear is 1 per output element.
2. A reduction is a fixed number per *input* element: sum, mean and extrema 1, variance 3, softmax 5 (maximum, subtract,
   exponential, sum, divide).
3. A norm is 2 per element where its statistics are given (one scale, one shift) and 5 where it takes them itself.
4. Pooling is one per window position and output element; an adaptive pool one per input element.
5. Interpolation is the multiplies and adds of one output element.
6. What only moves data is 0 on purpose. What is in none of the tables is *unknown*: `flops` answers None and the report
   names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

Rule = Callable[[Sequence[Any], Any], int]


def macs(operation: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> int:
    """The multiply-accumulates of one call; 0 for everything but convolutions, linears and matrix products."""
    formula = flop_registry.get(operation.overloadpacket)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=result)) // 2


def elementwise(operation: torch._ops.OpOverload, args: Sequence[Any], result: Any) -> int | None:
    """The arithmetic of one call beside its MACs, or None for an operation that no rule covers."""
    name = _family(operation)
    if operation.overloadpacket in flop_registry:
        return _elements(result) if _has_bias(name, args) else 0
    if operation.is_view or name in _MOVES or operation.namespace == "prim":
        return 0
    rule = _RULES.get(name)
    if rule is not None:
        return rule(args, result)
    return _elements(result) if torch.Tag.pointwise in operation.tags or name in _POINTWISE else None


def _family(operation: torch._ops.OpOverload) -> str:
    """`relu_`, `relu.out` and `relu` are one family; a private `_softmax` keeps its underscore in front."""
    return str(operation.overloadpacket.__name__).rstrip("_")


def _elements(value: Any) -> int:
    """Elements of a tensor, or of the first tensor where an operation gives several."""
    if isinstance(value, torch.Tensor):
        return value.numel()
    tensors = [item for item in value if isinstance(item, torch.Tensor)] if isinstance(value, (tuple, list)) else []
    return tensors[0].numel() if tensors else 0


def _has_bias(name: str, args: Sequence[Any]) -> bool:
    if name in ("convolution", "_convolution"):
        return args[2] is not None
    return name in ("addmm", "baddbmm")


def _per_input(count: int) -> Rule:
    return lambda args, _result: count * _elements(args[0])


def _per_output(count: int) -> Rule:
    return lambda _args, result: count * _elements(result)


def _batch_norm(training: int) -> Rule:
    """A batch norm's count hangs on whether it takes the batch's statistics: the argument at position `training`."""
    return lambda args, _result: (5 if args[training] else 2) * _elements(args[0])


def _window(dimensions: int) -> Rule:
    """A pool's window; torch allows one number for all axes."""

    def rule(args: Sequence[Any], result: Any) -> int:
        kernel = list(args[1])
        return int(prod(kernel * dimensions if len(kernel) == 1 else kernel)) * _elements(result)

    return rule


_MOVING = """
    _local_scalar_dense _reshape_alias _reshape_copy _to_copy _unsafe_index _unsafe_view _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d alias_copy arange as_strided as_strided_scatter bernoulli
    cat channel_shuffle clone col2im constant_pad_nd copy detach embedding empty empty_like empty_strided eye fill
    flip full full_like gather im2col index index_put index_select lift_fresh masked_fill masked_select
    native_channel_shuffle new_empty new_empty_strided new_full new_ones new_zeros normal ones ones_like
    permute_copy pixel_shuffle pixel_unshuffle rand rand_like randint randn randn_like randperm reflection_pad1d
    reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d
    resize roll scalar_tensor scatter select_scatter set slice_scatter split_with_sizes_copy stack tril triu unfold
    uniform unsafe_split unsafe_split_with_sizes upsample_nearest1d upsample_nearest2d upsample_nearest3d where zero
    zeros zeros_like
"""
_MOVES = frozenset(_MOVING.split())

# Pointwise by nature, though not every release of torch tags them so.
_UNTAGGED = """
    _prelu_kernel celu elu glu hardsigmoid hardswish hardtanh leaky_relu log_sigmoid_forward mish prelu relu relu6
    rrelu_with_noise selu silu softplus
"""
_POINTWISE = frozenset(_UNTAGGED.split())

_RULES: Mapping[str, Rule] = {
    # 1. pointwise, two operations in one call
    "addcmul": _per_output(2),
    "addcdiv": _per_output(2),
    "lerp": _per_output(2),
    "native_dropout": _per_output(2),
    # 2. reductions
    **dict.fromkeys(
        ("all", "amax", "amin", "aminmax", "any", "argmax", "argmin", "cumsum", "max", "mean", "min", "prod", "sum"),
        _per_input(1),
    ),
    **dict.fromkeys(("linalg_vector_norm", "norm"), _per_input(2)),
    **dict.fromkeys(("logsumexp", "std", "std_mean", "var", "var_mean"), _per_input(3)),
    **dict.fromkeys(("_log_softmax", "_safe_softmax", "_softmax"), _per_input(5)),
    # 3. norms
    "native_batch_norm": _batch_norm(5),
    "cudnn_batch_norm": _batch_norm(5),
    "miopen_batch_norm": _batch_norm(5),
    "_batch_norm_impl_index": _batch_norm(5),
    "_native_batch_norm_legit": _batch_norm(5),
    "_native_batch_norm_legit_no_training": _per_input(2),
    "_batch_norm_with_update": _per_input(5),
    "_batch_norm_no_update": _per_input(2),
    "native_group_norm": _per_input(5),
    "native_layer_norm": _per_input(5),
    "_fused_rms_norm": _per_input(4),
    # 4. pooling
    **{f"{kind}_pool{n}d": _window(n) for kind in ("avg", "max") for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices": _window(n) for n in (2, 3)},
    **{f"{prefix}adaptive_avg_pool{n}d": _per_input(1) for prefix in ("", "_") for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": _per_input(1) for n in (1, 2, 3)},
    # 5. interpolation: a weighted sum of 2 (4 for cubic) neighbours an axis
    "upsample_linear1d": _per_output(3),
    "upsample_bilinear2d": _per_output(7),
    "_upsample_bilinear2d_aa": _per_output(7),
    "upsample_trilinear3d": _per_output(15),
    "upsample_bicubic2d": _per_output(31),
    "_upsample_bicubic2d_aa": _per_output(31),
    "grid_sampler_2d": _per_output(7),
}
