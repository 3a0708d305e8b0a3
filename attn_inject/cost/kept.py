"""What a training step keeps from the forward pass for the backward pass, counted on the meta device.

Autograd says what it keeps (`torch.autograd.graph.saved_tensors_hooks`). Each storage counts once, whole, however many
operations keep it or a part of it; parameters and buffers do not count, since they are there anyway. Nothing is
computed, so that a batch of any size can be counted on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..tracing.alias import alias
from ..tracing.inputs import Inputs
from ..tracing.restoring import aside_in_mode
from ..tracing.turns import threads_in_turn
from .counting import on_meta, refusal


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes that a training step needs: `kept` of a batch of `batch`, and what any batch needs besides.

    `fixed` are parameters, their gradients and buffers. Of `kept`, `constant` does not grow with the batch (such as
    weights in the type of autocast).
    """

    batch: int
    kept: int
    constant: int
    fixed: int

    def largest_batch(self, memory: int) -> int:
        """The largest batch for which weights, gradients and what is kept fit into `memory` bytes; 0 if none does."""
        each = (self.kept - self.constant) / self.batch
        return max(0, int((memory - self.fixed - self.constant) // each)) if each > 0 else 0


def kept_for_backward(model: nn.Module, inputs: Inputs, batch: int, *, dtype: torch.dtype | None = None) -> Kept:
    """Count a train-mode forward pass of `model` on batches like `inputs`; `dtype` as in `count`. It is left as it was.

    Raises:
        TraceError: a model that cannot be run without real data, or not on two batches.

    """
    once, twice = (_kept(model, inputs.with_batch(n), dtype) for n in (batch, 2 * batch))
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}.values()
    gradients = sum(_bytes(p, dtype) for p in model.parameters() if p.requires_grad)
    return Kept(batch, once, max(0, 2 * once - twice), sum(_bytes(t, dtype) for t in tensors) + gradients)


def _bytes(tensor: Tensor, dtype: torch.dtype | None) -> int:
    return tensor.numel() * (dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype).itemsize


def _kept(model: nn.Module, inputs: Inputs, dtype: torch.dtype | None) -> int:
    def stand_in(tensor: Tensor) -> Tensor:
        to = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        made = torch.empty_like(tensor, device="meta", dtype=to)
        return made.requires_grad_(tensor.requires_grad and tensor.is_leaf)

    aliased = on_meta(aside_in_mode(alias(model), "train"), stand_in)
    given = inputs.map_tensors(stand_in)
    held = [t.untyped_storage() for t in (*aliased.parameters(), *aliased.buffers())]
    held += [t.untyped_storage() for m in aliased.modules() for t in m._parameters.values() if t is not None]
    own = {storage._cdata for storage in held}
    # The tensors stay alive, or one storage could take the address of another.
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    @contextmanager
    def keeping() -> Iterator[None]:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            yield

    try:
        with threads_in_turn(keeping), keeping():
            outputs = given.given_to(aliased)
    except Exception as error:
        # The model's own code refuses inputs with errors of any kind.
        raise refusal(error, given) from error
    found = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
    del outputs
    return found
