"""`optimize`: the rewrites in their order, over a copy that shares every weight it does not change."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import fx, nn

from ..errors import PlanError, RewriteError
from ..sites.reading import read, shaped_graph
from ..tracing.alias import alias
from ..tracing.face import Faced, attributes_of, face_of, forward_of, portable_face
from ..tracing.methods import bind
from ..tracing.parts import parts_to_change, put_in_place
from ..tracing.portable import PortableGraph
from ..tracing.restoring import aside_in_mode
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

    def __add__(self, other: Rewritten) -> Rewritten:
        """The counts of two parts together."""
        return Rewritten(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(Rewritten)))


class OptimizedModule(Faced, fx.GraphModule):
    """An inference graph; `rewritten` says what was done. `train()` is refused.

    It answers what the patched model answers of its class (`tracing.face`), and keeps its plain attributes.
    """

    rewritten: Rewritten
    _inj_face: type
    _inj_fixed: Mapping[str, Any]
    _inj_methods: tuple[str, ...]

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
        vars(other).update(copy.deepcopy(_kept(self), memo))
        other.rewritten = self.rewritten
        other.recompile()
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        held = {key: vars(self)[key] for key in ("_modules", "_parameters", "_buffers")}
        kept = {**_kept(self), "_inj_face": portable_face(face_of(self))}
        return _unpickled, ({**held, **kept}, PortableGraph(self.graph), self.rewritten)

    def recompile(self) -> Any:
        """Regenerate the code after an edit of the graph."""
        code = super().recompile()
        if fixed := vars(self).get("_inj_fixed"):
            run = {"inj_run": type(self).forward}
            type(self).forward = forward_of(self._inj_face, self.graph, fixed, "inj_run", run)
        bind(self, face_of(self), vars(self).get("_inj_methods", ()))
        return code


def optimize(patched: nn.Module, *, example_inputs: Any = None, disable: Collection[str] = ()) -> OptimizedModule:
    """What `surgery.faster.optimize` does with a graph; its arguments and errors."""
    unknown = [name for name in disable if name not in REWRITES]
    if unknown:
        raise PlanError(f"the rewrites are {', '.join(REWRITES)}; there is no {unknown[0]!r}")
    parts = parts_to_change(patched)
    if example_inputs is not None and "" not in parts:
        raise PlanError(f"example_inputs are for one part: optimize {' and '.join(parts)} by itself")
    fast = {
        path: _optimized(
            part,
            shaped_graph(patched, "eval", example_inputs, scope=path),
            [insertion.module for insertion in part.injection.plan.insertions],
            disable,
        )
        for path, part in parts.items()
    }
    return fast[""] if "" in fast else _around(patched, fast)  # type: ignore[return-value]


def _around(patched: nn.Module, fast: Mapping[str, OptimizedModule]) -> nn.Module:
    """The model around the parts again, in eval mode, with the fast ones in their places."""
    outer: nn.Module = aside_in_mode(put_in_place(alias(patched), fast), "eval").requires_grad_(requires_grad=False)
    vars(outer).pop("injection", None)
    vars(outer)["rewritten"] = sum((part.rewritten for part in fast.values()), Rewritten())
    return outer


def fold_norms(model: nn.Module, *, example_inputs: Any = None) -> OptimizedModule:
    """A plain model's eval graph with its norms folded, so that an optimized model is compared with its equal.

    Raises:
        TraceError: the model cannot be traced.

    """
    trace = read(model, example_inputs=example_inputs).trace
    return _optimized(trace.skeleton, trace.graphs["eval"], [], ())


def _optimized(source: nn.Module, original: fx.Graph, modules: list[str], disable: Collection[str]) -> OptimizedModule:
    root = aside_in_mode(alias(source), "eval")
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
    vars(result).update(_kept(root))
    result.recompile()
    result.requires_grad_(requires_grad=False)
    nn.Module.train(result, mode=False)
    return result


def _kept(root: nn.Module) -> dict[str, Any]:
    """What the graph keeps of the module that it was made from, beside what it runs."""
    own = {"_inj_fixed": {}, "_inj_methods": (), **vars(root), "_inj_face": face_of(root)}
    return {**attributes_of(root), **{name: own[name] for name in ("_inj_face", "_inj_fixed", "_inj_methods")}}


def _unpickled(held: dict[str, Any], packed: PortableGraph, rewritten: Rewritten) -> OptimizedModule:
    root = nn.Module()
    vars(root).update(held)
    return _module(root, packed.graph(), rewritten)
