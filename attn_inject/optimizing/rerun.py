"""A part of a gate that runs again in the backward pass: with the parameters, the types and the draws that it had.

What it keeps meanwhile is what it was given, and the parameters, which the model has anyway. One that is written in
between is found out by autograd; statistics of norms within the gate are counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch

from ..attention.gating import ChannelGate
from ..tracing.alias import alias, own_once


def gradients_through(
    gate: ChannelGate,
    run: Callable[[ChannelGate, torch.Tensor], torch.Tensor],
    given: torch.Tensor,
    parameters: Sequence[torch.Tensor],
    outer: torch.Tensor,
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """The gradients of `given` and of the gate's parameters through `run(gate, given)`; `outer` is that of its result.

    `parameters` are what the gate had, in its order. Where gradients are on, those of the gradients can be had.
    """
    again = torch.is_grad_enabled()
    gate = _with(gate, parameters)
    with torch.enable_grad():
        given = given if again else given.detach().requires_grad_()
        made = run(gate, given)
    wanted = [given, *(p for p in parameters if p.requires_grad)]
    found = torch.autograd.grad(made, wanted, outer, create_graph=again, allow_unused=True)
    share, rest = found[0], iter(found[1:])
    share = torch.zeros_like(given) if share is None else share
    return share, [next(rest) if p.requires_grad else None for p in parameters]


def _with(gate: ChannelGate, parameters: Sequence[torch.Tensor]) -> ChannelGate:
    """The same gate with these parameters, and buffers of its own."""
    other = cast(ChannelGate, alias(gate))
    for (path, _), parameter in zip(list(other.named_parameters()), parameters, strict=True):
        home, _, name = path.rpartition(".")
        other.get_submodule(home)._parameters[name] = parameter  # type: ignore[assignment]  # what was saved is a tensor
    own: dict[int, Any] = {}
    for module in other.modules():
        module._buffers.update(
            {name: own_once(held, own) for name, held in module._buffers.items() if held is not None}
        )
    return other


class GateAgain(torch.autograd.Function):
    """The gate, its pooled vector (N, C) and its parameters -> its weights (N, C), of which no layer keeps anything.

    Under autocast each layer would keep a copy of its weights for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, gate: ChannelGate, pooled: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(pooled, *parameters)
        ctx.gate, ctx.state = gate, _State(pooled)
        with ctx.state.cast():
            return gate.gate(pooled)

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        pooled, *parameters = ctx.saved_tensors
        with ctx.state.restored():
            share, rest = gradients_through(ctx.gate, lambda gate, x: gate.gate(x), pooled, parameters, outer)
        return None, share if ctx.needs_input_grad[1] else None, *rest


class _State:
    """What a run depends on beside its inputs: autocast, and torch's generators."""

    def __init__(self, x: torch.Tensor) -> None:
        self._kind = x.device.type
        self._type = torch.get_autocast_dtype(self._kind)
        self._devices = [x.device] if self._kind == "cuda" else []
        self._seeds = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in self._devices]

    def cast(self) -> torch.autocast:
        """Autocast as it was; a copy that it keeps of a weight here would have no history for who asks next."""
        return torch.autocast(self._kind, self._type, cache_enabled=False)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """The same state again, for a while."""
        with torch.random.fork_rng(self._devices), self.cast():
            torch.set_rng_state(self._seeds[0])
            for device, seed in zip(self._devices, self._seeds[1], strict=True):
                torch.cuda.set_rng_state(seed, device)
            yield
