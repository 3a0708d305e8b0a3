"""`optimize` and `optimize_training` for both forms of a patched model: what is attached is optimized as a graph."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from ..optimizing import optimized, training
from ..optimizing.optimized import OptimizedModule
from ..optimizing.optimized import fold_norms as fold_norms
from ..tracing.injected import InjectedModule
from ..tracing.sharded import must_not_be_sharded
from .forms import as_graph
from .parameters import hold_parameters_of


def optimize(patched: nn.Module, *, example_inputs: Any = None, disable: Collection[str] = ()) -> OptimizedModule:
    """A faster graph for inference: the outputs of `patched` in eval mode, up to the tolerance of its dtype.

    Modules that have hooks now (masks of a pruning, old weight norms and spectral norms among them) stay as they are.

    >>> import torch
    >>> from attn_inject import attach, optimize
    >>> from attn_inject.zoo.cifar import models
    >>> attached, x = attach(models()["resnet20"](), "se").eval(), torch.randn(1, 3, 32, 32)
    >>> fast = optimize(attached)
    >>> fast.rewritten.norms_folded, fast.rewritten.adds_fused
    (19, 9)
    >>> torch.allclose(fast(x), attached(x), atol=1e-4)
    True

    Args:
        patched: what `inject` or `attach` returned; it stays as it is, and shares the weights that did not change, so
            that the result is spoilt once `patched` trains on or loads others: optimize what is trained, or a copy.
            With scopes, every patched part is optimized in its place, and the model around stays what it is.
        example_inputs: for models with several inputs; shapes are otherwise those of the trace. Not with scopes.
        disable: names of rewrites to leave out: "identity_removal", "norm_folding", "early_squeeze", "gate_add" or
            "gate_kernel".

    Raises:
        PlanError: `patched` is no patched model, has no graph, was changed since it was attached to, is one with a
            scope and has `example_inputs`, or an unknown rewrite; also on `train()` of the result.
        RewriteError: a rewrite left a graph that is not sound.
        TraceError: the model does not run on `example_inputs`.

    """
    return optimized.optimize(as_graph(patched), example_inputs=example_inputs, disable=disable)


def holds_optimized(model: nn.Module) -> bool:
    """Whether a model, or a part of it, is what `optimize` gave."""
    return any(isinstance(module, OptimizedModule) for module in model.modules())


def optimize_training(patched: nn.Module, *, example_inputs: Any = None) -> InjectedModule:
    """A graph over the weights of `patched`, whose train mode does the same with less traffic and memory.

    Train it instead of `patched`; what it learns is in both. Only pure gates (SE, ECA and their like) change. A gate
    after a batch norm, or before a layer scale that is a product, keeps no map for the backward pass that the plain
    network does not keep; one more is kept with `F.dropout` between the gate and the scale. Gradients of gradients
    work; the transforms of `torch.func`, forward-mode derivatives, `torch.jit.script` and `fx.symbolic_trace` do not.
    Under `torch.compile` the compiler chooses what is kept. Attention and norms that have hooks now stay as they are;
    hooks that come later do not fire in train mode. Files keep the model and not this: call it again on what `load`
    gives.

    >>> import torch
    >>> from attn_inject import inject, optimize_training
    >>> from attn_inject.zoo.cifar import models
    >>> patched = inject(models()["resnet20"](), "eca")
    >>> faster = optimize_training(patched).train()
    >>> optimizer = torch.optim.SGD(faster.parameters(), lr=0.1)
    >>> faster(torch.randn(2, 3, 32, 32)).square().mean().backward()
    >>> optimizer.step()
    >>> all(ours is theirs for ours, theirs in zip(faster.parameters(), patched.parameters()))
    True

    Args:
        patched: what `inject` or `attach` returned; with scopes, a copy of the whole with the same in every patched
            part. Of what `attach` returned, the result is the graph.
        example_inputs: for models with several inputs; shapes are otherwise those of the trace. Not with scopes.

    Raises:
        PlanError: `patched` is no patched model, has no graph, was changed since it was attached to, is sharded
            (shard what this gives), or is one with a scope and has `example_inputs`.
        TraceError: the model does not run on `example_inputs`.

    """
    must_not_be_sharded(patched)
    faster = training.optimize_training(as_graph(patched), example_inputs=example_inputs)
    hold_parameters_of(patched, faster)
    return faster
