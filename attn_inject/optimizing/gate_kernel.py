"""From the pooled vector to the finished block in as few kernels as possible, on CUDA, with Triton.

A map of a block's output takes one pass: gate, multiply, add and ReLU in the branch's memory. Before that come the pool
(early or late) and, for gates of two layers, one kernel for both of them. Conditions:
 K1. `gate_add` fused the site, so that the memory is the branch's own.
 K2. The gate's last step is a sigmoid or a hard sigmoid (`ChannelGate.gate_name`), not one of its own.
 K3. At run time: CUDA, float32, bfloat16 or float16, branch and shortcut dense in the same layout, no gradient wanted,
     and no compiler at work, which fuses on its own. Anything else takes the plain operations, with the same result.
"""

from __future__ import annotations

import functools
import subprocess
import types
import warnings
from collections.abc import Callable
from typing import TypeGuard, cast

import torch
from torch import fx, nn

from ..attention.gating import GATES, ChannelGate, spatial_mean
from ..attention.se import SE
from ..tracing.nodes import inherit
from .early_squeeze import EarlyGate, LateGate
from .gate_add import gate_and_add

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def use_gate_kernels(root: nn.Module, graph: fx.Graph) -> int:
    """Let every fused site whose gate fits (K1, K2) take its logits, not its weights. Returns how many do."""
    changed = 0
    for node in list(graph.nodes):
        if node.target is not gate_and_add:
            continue
        branch, gate, shortcut = node.args
        maker = root.get_submodule(str(gate.target))
        if not isinstance(maker, (EarlyGate, LateGate)) or len(gate.users) != 1:
            continue
        if maker.attention.gate_name not in GATES:
            continue
        logits = Logits(maker)
        home, _, child = str(gate.target).rpartition(".")
        setattr(root.get_submodule(home), child, logits)
        attention = logits.attention
        with graph.inserting_before(node):
            new = graph.call_function(
                open_gate_and_add,
                (branch, gate, shortcut),
                {"gate": attention.gate_name, "scale": attention.scale, **node.kwargs},
            )
        inherit(new, node)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
        changed += 1
    return changed


class Logits(nn.Module):
    """A gate before its sigmoid: what `maker` takes -> (N, C)."""

    traced_whole = True

    def __init__(self, maker: EarlyGate | LateGate) -> None:
        super().__init__()
        self.maker = maker

    @property
    def attention(self) -> ChannelGate:
        return self.maker.attention

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        maker, gate = self.maker, self.maker.attention
        if _is_two_layers(gate) and (kernels := _kernels()) is not None:
            early = isinstance(maker, EarlyGate) and maker.pays(*maps)
            squeezed = maps[0] if early else maps[-1]
            layers = *_layer(maker if early else gate.fc1), *_layer(gate.fc2)
            if _may_launch(squeezed, *layers):
                pooled = spatial_mean(squeezed).contiguous()
                silu = gate.act is not torch.relu
                done = _launched(kernels.two_layers, pooled, *layers, silu=silu)
                if done is not None:
                    return done
        # Gates that sum over maps work in float32; the kernel takes one type.
        return maker.logits(*maps).to(maps[-1].dtype)


def _is_two_layers(gate: ChannelGate) -> TypeGuard[SE]:
    """Whether the kernel computes the gate: it is no subclass, which may pool another statistic."""
    return type(gate) is SE and gate.act in (torch.relu, nn.functional.silu)


def _layer(layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None]:
    return cast(torch.Tensor, layer.weight).flatten(1), cast("torch.Tensor | None", layer.bias)


def open_gate_and_add(
    branch: torch.Tensor, logits: torch.Tensor, shortcut: torch.Tensor, *, gate: str, scale: float, relu: bool
) -> torch.Tensor:
    """branch * scale sigma(logits) + shortcut, perhaps with a ReLU, in `branch`'s memory.

    Shapes: (N, C, *spatial), (N, C), (N, C, *spatial).
    """
    if _may_launch(branch, logits, shortcut) and (kernels := _kernels()) is not None:
        last = _is_channels_last(branch)
        if branch.stride() == shortcut.stride() and (last or branch.is_contiguous()):
            done = _launched(
                kernels.gate_add, branch, logits.contiguous(), shortcut,
                hard=gate == "hardsigmoid", scale=scale, relu=relu, channels_last=last,
            )  # fmt: skip
            if done is not None:
                return done
    weights = GATES[gate](logits)
    weights = weights if scale == 1.0 else weights * scale
    return gate_and_add(branch, weights.reshape(*weights.shape, *(1,) * (branch.dim() - 2)), shortcut, relu=relu)


fx.wrap("open_gate_and_add")


def _may_launch(first: torch.Tensor, *others: torch.Tensor | None) -> bool:
    """Whether a kernel may take all that it reads: on CUDA, of one type, and without a gradient that it would lose."""
    if not first.is_cuda or first.dtype not in _DTYPES or torch.compiler.is_compiling():
        return False
    given = [first, *(other for other in others if other is not None)]
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    return not wanted and all(tensor.dtype == first.dtype for tensor in given)


def _is_channels_last(x: torch.Tensor) -> bool:
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    # Of a map with one position or one channel both are true, and either gives the right owner.
    return layout is not None and x.is_contiguous(memory_format=layout) and not x.is_contiguous()


@functools.cache
def _kernels() -> types.ModuleType | None:
    try:
        from . import triton_kernels
    except ImportError:
        return None
    return triton_kernels


def _launched(kernel: Callable[..., torch.Tensor], *args: object, **kwargs: object) -> torch.Tensor | None:
    """The kernel's result; None, once and for all, on a machine where Triton cannot build it."""
    global _broken
    if _broken:
        return None
    try:
        with torch.cuda.device_of(args[0]):  # type: ignore[no-untyped-call]
            return kernel(*args, **kwargs)
    except Exception as error:
        if not cannot_be_built(error):
            raise
        _broken = True
        warnings.warn(f"Triton cannot run here ({error}): the plain operations are used", RuntimeWarning, stacklevel=3)
        return None


_broken = False

# The compiler's classes, by name: releases have moved them from module to module.
_REFUSALS = ("CompilationError", "OutOfResources", "PTXASError")
# What else says that no kernel can be had on this machine: no compiler, no driver, or one that rejects the binary.
_LACKS = (
    "active drivers",
    "Failed to find C compiler",
    "Failed to load newly compiled",
    "Cannot find ptxas",
    "Triton only support CUDA",
    "PassManager::run failed",
    "no kernel image is available",
    "device kernel image is invalid",
    "unsupported toolchain",
)


def cannot_be_built(error: Exception) -> bool:
    """Whether the error says that this machine cannot build the kernel, and so never will.

    Anything else, such as too little memory for this batch, says nothing about the next call, or is a fault of ours.
    """
    if any(kind.__module__.startswith("triton.") and kind.__name__ in _REFUSALS for kind in type(error).__mro__):
        return True
    # Building runs a C compiler and writes files; launching does neither.
    if isinstance(error, (OSError, subprocess.CalledProcessError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _LACKS)
