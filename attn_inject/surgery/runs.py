"""Real runs of an alias that leave nothing behind: not in the caller's statistics, nor generators, nor hooks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from ..sites.written import tensors_written
from ..tracing.alias import alias, copied, own_once
from ..tracing.checkpoints import quiet_checkpoints
from ..tracing.draws import Draws, drawn_apart, own_generators, reseed
from ..tracing.hook_tables import BACKWARD, FORWARD, hook_tables
from ..tracing.hooks import Hooks
from ..tracing.injected import InjectedModule
from ..tracing.keepers import Keepers
from ..tracing.onlookers import shielded
from ..tracing.restoring import as_it_was, aside_in_mode, written_with_modes
from ..tracing.trace import MODES
from ..tracing.values import fetch


class Runs:
    """Runs of an alias, each from the statistics that it has now, under one seed, without gradients if not asked for.

    With `writes`, where the code writes into its weights, each has weights of its own too.
    """

    def __init__(self, aliased: nn.Module, *, writes: bool = False) -> None:
        self.model = aliased
        # Whether its code has noted something on itself in a run, which the next one may read.
        self.keeps = False
        self._buffers = _held(aliased, "_buffers")
        written = written_with_modes(aliased)
        tables = [module._parameters for module in aliased.modules() if writes or id(module) in written]
        self._owned = [*self._buffers, *_in_tables(tables)]

    def statistics(self) -> list[torch.Tensor]:
        """The buffers after the last run."""
        return [table[name] for table, name, _ in self._buffers]

    @contextmanager
    def run(self, mode: str, *, gradients: bool = False) -> Iterator[None]:
        """Let the alias run in `mode`, on buffers of its own: the caller's stay as they are, and so do generators.

        What its code notes on itself is taken back: a run that an error ends may leave half of something.
        """
        own: dict[int, torch.Tensor] = {}
        for table, name, tensor in self._owned:
            table[name] = own_once(tensor, own)
        with (
            as_it_was(self.model, mode) as noted,
            Hooks(self.model, followed=True).restored(),
            from_one_seed(self.model),
            torch.set_grad_enabled(gradients),
        ):
            yield
            self.keeps = self.keeps or noted()


def _held(aliased: nn.Module, kind: str) -> list[tuple[dict[str, Any], str, torch.Tensor]]:
    """(table, name, tensor) of all that the tables of this kind hold."""
    return _in_tables([getattr(module, kind) for module in aliased.modules()])


def _in_tables(tables: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], str, torch.Tensor]]:
    return [(table, name, tensor) for table in tables for name, tensor in table.items() if tensor is not None]


@contextmanager
def from_one_seed(model: nn.Module) -> Iterator[None]:
    """Let `model` draw in here what every other such run draws, and the caller's draws be.

    Some networks draw in eval mode too: an autoencoder samples around its code.
    """
    tensors = (*model.parameters(), *model.buffers())
    own = own_generators(model)
    with drawn_apart([tensor.device for tensor in tensors], 0), Draws(own).undone(), quiet_checkpoints():
        reseed(own)
        yield


def without_onlookers(aliased: nn.Module) -> nn.Module:
    """Keep from the caller's hooks on an alias what runs in it, but for those that change something, or keep it there.

    What is on the alias itself runs around all of it, whatever is patched.
    """
    keepers = Keepers(aliased)
    for path, module in aliased.named_modules():
        for hooks in hook_tables(module, FORWARD if path else ()):
            hooks.update({key: shielded(hook, keepers) for key, hook in hooks.items()})
        for hooks in hook_tables(module, BACKWARD if path else (*BACKWARD, *FORWARD)):
            hooks.clear()
    return aliased


def alone_in_eval(part: InjectedModule) -> nn.Module:
    """An alias of a graph in eval mode, without hooks that look on, with buffers of its own, which observers write in
    eval mode too, and with weights of its own where it writes any.
    """
    writes = writes_weights(part, map(part.graph_of, MODES))
    aliased: nn.Module = aside_in_mode(without_onlookers((copied if writes else alias)(part)), "eval")
    own: dict[int, torch.Tensor] = {}
    for table, name, tensor in () if writes else _held(aliased, "_buffers"):
        table[name] = own_once(tensor, own)
    return aliased


def writes_weights(model: nn.Module, graphs: Iterable[fx.Graph]) -> bool:
    """Whether one of its graphs changes a parameter, or a view of it, in place, as forced weight norms do."""
    return any(isinstance(fetch(model, path), nn.Parameter) for graph in graphs for path in tensors_written(graph))
