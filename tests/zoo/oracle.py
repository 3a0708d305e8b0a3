"""A second opinion on residual sites that uses no torch.fx: run the model and watch what is really added to what.

The model runs once on meta tensors under a dispatch mode that sees every aten operation. Each value gets a number, and
two sets kept as bit masks: its *ancestors*, and its *affine ancestors*, those it is reached from through affine
operations only. A sum of two maps `a + b` of one shape is the end of a residual block if some value F is an affine
ancestor of a and an ancestor of b, but no affine ancestor of b, with a convolution on the way to b only, and if
neither of the two is an affine ancestor of the other. A slice starts afresh (a scale of a split is no shortcut). The
innermost module that is running when the sum is made is its block.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

AFFINE = {
    "convolution", "native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit",
    "native_layer_norm", "native_group_norm", "cudnn_batch_norm", "add", "add_", "sub", "sub_", "rsub", "cat", "view",
    "_unsafe_view", "reshape", "permute", "transpose", "t", "clone", "_to_copy", "contiguous", "expand", "unsqueeze",
    "squeeze", "avg_pool2d", "avg_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool2d",
    "_adaptive_avg_pool2d", "mean", "constant_pad_nd", "reflection_pad2d", "replication_pad2d", "addmm", "mm", "linear",
    "copy_", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "dropout", "native_dropout", "im2col",
    "lift_fresh", "alias", "detach", "stack", "sum", "empty_like", "neg", "roll", "pixel_shuffle", "pixel_unshuffle",
    "_adaptive_avg_pool3d", "conv2d", "conv1d", "conv3d", "batch_norm", "group_norm", "layer_norm", "channel_shuffle",
    "native_channel_shuffle", "_fused_rms_norm", "rms_norm", "flatten", "unflatten",
}  # fmt: skip
SLICES = {"slice", "split", "split_with_sizes", "chunk", "select", "unbind", "narrow", "tensor_split", "unsafe_chunk"}
SCALES = {"mul", "mul_", "div", "div_"}
CONVOLUTIONS = {"convolution", "conv2d", "conv1d", "conv3d"}


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.frames: list[str] = [""]
        self.numbers: dict[int, int] = {}
        self.alive: list[torch.Tensor] = []
        self.ancestors: list[int] = []
        self.affine: list[int] = []
        self.convolutions = 0
        self.sums: list[tuple[str, int, int, int]] = []

    def number(self, tensor: torch.Tensor) -> int | None:
        return self.numbers.get(id(tensor))

    def enter(self, tensor: torch.Tensor, parents: list[int], name: str) -> None:
        value = len(self.ancestors)
        bit = 1 << value
        ancestors = bit
        for parent in parents:
            ancestors |= self.ancestors[parent]
        affine = bit
        if name in AFFINE or (name in SCALES and len(parents) == 1):
            for parent in parents:
                affine |= self.affine[parent]
        self.ancestors.append(ancestors)
        self.affine.append(affine)
        if name in CONVOLUTIONS:
            self.convolutions |= bit
        self.numbers[id(tensor)] = value
        self.alive.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        parents = [n for x in inputs if (n := self.number(x)) is not None]
        if not parents:
            return out
        if name in ("add", "add_") and len(parents) == 2 and len(args) > 1 and isinstance(args[1], torch.Tensor):
            a, b = args[0], args[1]
            if a.shape == b.shape and a.dim() >= 4 and parents[0] != parents[1]:
                self.sums.append((self.frames[-1], parents[0], parents[1], len(self.ancestors)))
        for result in tree_leaves(out):
            if isinstance(result, torch.Tensor) and result.is_floating_point():
                self.enter(result, parents, name)
                base = result._base
                if name.endswith("_") and base is not None and (old := self.number(base)) is not None:
                    self.enter(base, [old, self.numbers[id(result)]], "add")
        return out

    def is_residual(self, shortcut: int, branch: int) -> bool:
        forks = self.affine[shortcut] & self.ancestors[branch] & ~self.affine[branch]
        if not forks or self.affine[shortcut] >> branch & 1 or self.affine[branch] >> shortcut & 1:
            return False
        # A convolution of the branch's own: behind it, and not behind the shortcut.
        return bool(self.convolutions & self.ancestors[branch] & ~self.ancestors[shortcut])


def residual_blocks(model: nn.Module, *inputs: torch.Tensor) -> Counter[str]:
    """How many residual sums each module's `forward` makes, by module path, in eval mode on `inputs`."""
    watch = _Watch()
    handles = []
    for path, module in model.named_modules():
        if any(True for _ in module.children()) or not type(module).__module__.startswith("torch.nn"):

            def before(_module: nn.Module, _args: Any, path: str = path) -> None:
                watch.frames.append(path)

            def after(_module: nn.Module, _args: Any, _out: Any) -> None:
                watch.frames.pop()

            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        with torch.no_grad(), watch:
            for tensor in inputs:
                watch.enter(tensor, [], "input")
            model.eval()(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    found: Counter[str] = Counter()
    for frame, a, b, _ in watch.sums:
        if watch.is_residual(a, b) != watch.is_residual(b, a):
            found[frame] += 1
    return found
