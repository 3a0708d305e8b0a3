"""Attention modules watched while the model runs: hooks that turn what passes into moments, and keep no map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..attention.gating import BranchWeights, ChannelGate, unmixed
from ..tracing.hook_tables import is_hooked
from ..types import Insertion
from .data import CLOSED, OPEN, Nature
from .feeds import Batch
from .moments import ClassMoments, Moments
from .views import are_beside, images_of, marked_maps

# So many elements of a map are looked at in float64 at once.
_CHUNK = 1 << 20
# A gate's output is x times w but for rounding: squares of what is left over, relative to the output's.
_ROUNDING = 1e-9


class Watched:
    """One attention module, and what is known of its weights."""

    def __init__(self, insertion: Insertion, module: nn.Module) -> None:
        self.insertion = insertion
        self.module = module
        # What hooks make of it is seen in what comes out alone.
        is_plain = isinstance(module, ChannelGate) and type(module).forward is ChannelGate.forward
        self.is_ours = is_plain and not is_hooked(module)
        self.top = module.scale if isinstance(module, ChannelGate) else 1.0
        self.shares = next((one for one in unmixed(module).children() if isinstance(one, BranchWeights)), None)
        self.can_go = insertion.placement != "replace"
        # What stands in the place of a convolution has no input that its output could be a multiple of.
        self.has_weights = self.can_go or self.shares is not None
        count = insertion.channels if self.shares is None else self.shares.branches * self.shares.channels
        self.weights = Moments(count)
        self.by_class = ClassMoments(count)
        self.closed = torch.zeros(count, dtype=torch.float64, device="cpu")
        self.opened = torch.zeros(count, dtype=torch.float64, device="cpu")
        self._left_over = self._output = 0.0
        self._writes_input: bool | None = None
        # Of several maps of one image: whether they are beside one another, once that is known; what waits for it.
        self.beside: bool | None = None
        self.has_unknown_views = False
        self.unsettled: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._given: tuple[torch.Tensor, int] | None = None

    @property
    def nature(self) -> Nature:
        """What it turned out to be."""
        if not self.has_weights:
            return "other"
        if self.shares is not None:
            return "branches"
        return "gate" if self.is_ours or self._left_over <= self._rounding() * self._output else "map"

    def _rounding(self) -> float:
        dtype = next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)
        return max(_ROUNDING, (16 * torch.finfo(dtype).eps) ** 2)

    def before(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        """Keep the input of a module that writes into it; the first time nobody knows whether it does."""
        if self.is_ours or self.shares is not None or not self.has_weights:
            return
        x = args[0]
        self._given = (x if self._writes_input is False else x.detach().clone(), x._version)

    @property
    def seen(self) -> nn.Module:
        """The module whose calls are watched: the attention, or what in it weighs its branches."""
        return self.module if self.shares is None else self.shares

    def after(self, args: tuple[Any, ...], out: Any, labels: torch.Tensor | None) -> None:
        if not self.has_weights:
            return
        if self.shares is not None:
            self._note(out.flatten(1), labels)
            return
        x = args[0]
        if isinstance(self.module, ChannelGate) and self.is_ours:
            self._note(self.module.gate(self.module.pool(x)), labels)
            return
        if self._given is None or not isinstance(out, torch.Tensor) or out.shape != x.shape:
            self.has_weights = False
            return
        given, version = self._given
        self._given = None
        self._writes_input = x._version != version
        self._note(self._factors(given, out), labels)

    def _factors(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) twice -> (N, C): <out, x> / <x, x> over space; what it does not explain is noted."""
        x, out = x.flatten(2), out.flatten(2)
        step = max(1, _CHUNK // max(1, x[0].numel()))
        made = []
        for start in range(0, len(x), step):
            a, b = x[start : start + step].double(), out[start : start + step].double()
            product, square = (a * b).sum(2), a.square().sum(2)
            made.append(torch.where(square > 0, product / square, torch.nan))
            self._left_over += float((b - made[-1].nan_to_num().unsqueeze(2) * a).square().sum())
            self._output += float(b.square().sum())
        return torch.cat(made)

    def _note(self, weights: torch.Tensor, labels: torch.Tensor | None) -> None:
        weights = weights.detach().cpu().double()
        self.weights.add(weights)
        self.closed += (weights.abs() < CLOSED * self.top).sum(0)
        self.opened += (weights > OPEN * self.top).sum(0)
        if labels is not None and len(weights) % len(labels) == 0:
            self._note_classes(weights, labels)

    def _note_classes(self, weights: torch.Tensor, labels: torch.Tensor) -> None:
        # A model may make several images of one (frames, crops), or one of several.
        if self.beside is None and len(labels) not in (1, len(weights)):
            self.unsettled.append((weights, labels))
            return
        self.by_class.add(weights, labels[images_of(len(weights), len(labels), beside=self.beside is not False)])

    def settle(self, marked: Sequence[torch.Tensor]) -> None:
        """Count by class what was waiting, by which maps (N,) of each call are `marked` as made of the first image."""
        ways = {are_beside(seen, len(labels)) for (_, labels), seen in zip(self.unsettled, marked, strict=False)}
        self.beside = ways.pop() if len(ways) == 1 else None
        self.has_unknown_views |= self.beside is None
        waiting, self.unsettled = self.unsettled, []
        for weights, labels in waiting if self.beside is not None else ():
            self._note_classes(weights, labels)


class Watch:
    """All attention modules of a model, watched within `looking`."""

    def __init__(self, model: nn.Module, insertions: Sequence[Insertion]) -> None:
        self.sites = [Watched(insertion, model.get_submodule(insertion.module)) for insertion in insertions]
        self.labels: torch.Tensor | None = None

    def settle(self, model: nn.Module, batch: Batch) -> None:
        """Find out of which image of the batch, which just ran, maps were made where there are several of one."""
        if waiting := [site for site in self.sites if site.unsettled]:
            marks = marked_maps(model, batch, {site.seen for site in waiting})
            for site in waiting:
                site.settle(marks[site.seen])

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Hooks on the modules, which are gone afterwards. `labels` are those of the batch that runs."""
        handles = []
        try:
            for site in self.sites:
                handles.append(site.seen.register_forward_pre_hook(site.before))
                handles.append(site.seen.register_forward_hook(self._after(site)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _after(self, site: Watched) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            site.after(args, out, self.labels)

        return hook
