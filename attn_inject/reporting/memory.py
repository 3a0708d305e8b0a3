"""What the training steps of a report's two models keep for the backward pass, and how large a batch that leaves."""

from __future__ import annotations

from torch import nn

from ..cost.kept import kept_for_backward
from ..cost.latency import Contest
from ..errors import AttnInjectError
from ..surgery.faster import optimize_training
from .data import Keeping, StepMemory


def step_memory(contest: Contest) -> StepMemory | None:
    """Count both models, and the patched one after `optimize_training`; None where they do not run without data."""
    memory = contest.device.memory_bytes()

    def keeping(model: nn.Module) -> Keeping:
        kept = kept_for_backward(model, contest.inputs, contest.batch)
        return Keeping(kept.kept, kept.largest_batch(memory))

    try:
        before, after = (keeping(model) for model in contest.models)
    except AttnInjectError:
        return None
    try:
        optimized = keeping(optimize_training(contest.models[1]))
    except AttnInjectError:
        optimized = None
    return StepMemory(memory, before, after, optimized)
