"""Real runs of an alias that leave nothing behind: not in the caller's statistics, nor generators, nor hooks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..tracing.factories import Draws


class Runs:
    """Runs of an alias, each from the statistics that it has now, under one seed, without gradients."""

    def __init__(self, aliased: nn.Module) -> None:
        self.model = aliased
        self._buffers = [
            (module, name, buffer)
            for module in aliased.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def statistics(self) -> list[torch.Tensor]:
        """The buffers after the last run."""
        return [module._buffers[name] for module, name, _ in self._buffers]  # type: ignore[misc]

    @contextmanager
    def run(self, mode: str) -> Iterator[None]:
        """Let the alias run in `mode`, on buffers of its own: the caller's stay as they are, and so do generators."""
        own: dict[int, torch.Tensor] = {}
        for module, name, buffer in self._buffers:
            module._buffers[name] = own[id(buffer)] if id(buffer) in own else own.setdefault(id(buffer), buffer.clone())
        self.model.train(mode=mode == "train")
        with from_one_seed((*self.model.parameters(), *own.values())), torch.no_grad():
            yield


@contextmanager
def from_one_seed(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Let what runs on the devices of `tensors` draw what every other such run draws, and the caller's draws be.

    Some networks draw in eval mode too: an autoencoder samples around its code.
    """
    devices = {tensor.device.index for tensor in tensors if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)), Draws().undone():
        torch.manual_seed(0)
        yield


def without_hooks(aliased: nn.Module, called: Collection[str] | None = None) -> nn.Module:
    """Take the caller's forward and backward hooks off an alias: they may record what they see.

    With `called`, the paths of modules that a graph calls, those before the others go too, which no graph runs.
    """
    for path, module in aliased.named_modules():
        if called is not None and path not in called:
            module._forward_pre_hooks.clear()
        for hooks in (module._forward_hooks, module._backward_hooks, module._backward_pre_hooks):
            hooks.clear()
    return aliased
