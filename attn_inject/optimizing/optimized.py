"""`optimize`: the rewrites in their order, over a copy that shares every weight it does not change."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx, nn

from ..errors import PlanError, RewriteError
from ..sites.reading import read, shaped_graph
from ..tracing.alias import alias
from ..tracing.parts import patched_parts
from ..tracing.portable import PortableGraph
from .early_squeeze import split_gates, squeeze_early
from .gate_add import fuse_gate_and_add
from .gate_kernel import use_gate_kernels
from .identities import remove_identities
from .norm_folding import fold_batch_norms

REWRITES = ("identity_removal", "norm_folding", "early_squeeze", "gate_add", "gate_kernel")
# Largest difference from the unoptimized model, relative to its largest output: folding reorders sums.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10, torch.bfloat16: 5e-2, torch.float16: 5e-3}


@dataclass(frozen=True)
class Rewritten:
    """How often each rewrite applied."""

    identities_removed: int = 0
    norms_folded: int = 0
    pooled_early: int = 0
    adds_fused: int = 0
    gates_in_kernels: int = 0


class OptimizedModule(fx.GraphModule):
    """An inference graph; `rewritten` says what was done. `train()` is refused."""

    rewritten: Rewritten

    def train(self, mode: bool = True) -> OptimizedModule:  # noqa: FBT001, FBT002  # torch's own signature
        """Only `train(False)` works: folded norms have no statistics to train with."""
        if mode:
            raise PlanError("an optimized model is for inference: train the model that it was made from")
        super().train(mode=False)
        return self

    # torch's own copies are plain graph modules: they would train, and could not say what was done.
    def __copy__(self) -> OptimizedModule:
        return _module(self, self.graph, self.rewritten)

    def __deepcopy__(self, memo: dict[int, Any]) -> OptimizedModule:
        other = cast(OptimizedModule, super().__deepcopy__(memo))
        other.rewritten = self.rewritten
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        held = {key: vars(self)[key] for key in ("_modules", "_parameters", "_buffers")}
        return _unpickled, (held, PortableGraph(self.graph), self.rewritten)


def optimize(patched: nn.Module, *, example_inputs: Any = None, disable: Collection[str] = ()) -> OptimizedModule:
    """What `surgery.faster.optimize` does with a graph; its arguments and errors."""
    unknown = [name for name in disable if name not in REWRITES]
    if unknown:
        raise PlanError(f"the rewrites are {', '.join(REWRITES)}; there is no {unknown[0]!r}")
    parts = patched_parts(patched)
    if "" not in parts:
        places = " and ".join(f"optimize(model.get_submodule({path!r}))" for path in parts)
        raise PlanError(f"submodules of this model were patched, and each is optimized by itself: {places}")
    inner = parts[""]
    graph = shaped_graph(inner, "eval", example_inputs)
    modules = [insertion.module for insertion in inner.injection.plan.insertions]
    return _optimized(inner, graph, modules, disable)


def fold_norms(model: nn.Module, *, example_inputs: Any = None) -> OptimizedModule:
    """A plain model's eval graph with its norms folded, so that an optimized model is compared with its equal.

    Raises:
        TraceError: the model cannot be traced.

    """
    trace = read(model, example_inputs=example_inputs).trace
    return _optimized(trace.skeleton, trace.graphs["eval"], [], ())


def _optimized(source: nn.Module, original: fx.Graph, modules: list[str], disable: Collection[str]) -> OptimizedModule:
    root = alias(source).eval()
    graph = copy.deepcopy(original)
    removed = remove_identities(root, graph) if "identity_removal" not in disable else 0
    folded = fold_batch_norms(root, graph) if "norm_folding" not in disable else 0
    early = squeeze_early(root, graph, modules) if "early_squeeze" not in disable else 0
    split_gates(root, graph, modules)
    fused = fuse_gate_and_add(root, graph) if "gate_add" not in disable else 0
    kernels = use_gate_kernels(root, graph) if "gate_kernel" not in disable else 0
    try:
        graph.lint()
    except RuntimeError as error:
        raise RewriteError(f"the optimized graph is not sound: {error}") from error
    return _module(root, graph, Rewritten(removed, folded, early, fused, kernels))


def _module(root: nn.Module, graph: fx.Graph, rewritten: Rewritten) -> OptimizedModule:
    result = OptimizedModule(root, graph, class_name="OptimizedModule")
    result.rewritten = rewritten
    result.requires_grad_(requires_grad=False)
    nn.Module.train(result, mode=False)
    return result


def _unpickled(held: dict[str, Any], packed: PortableGraph, rewritten: Rewritten) -> OptimizedModule:
    root = nn.Module()
    vars(root).update(held)
    return _module(root, packed.graph(), rewritten)
