"""Gates that hardly move become factors of the layers before them, as far as the outputs allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import nn

from ..cost.latency import BenchSettings, Contest, Race
from ..errors import AttnInjectError, PlanError
from ..surgery.constants import layer_before, with_constants
from ..surgery.forms import as_graph
from ..surgery.records import in_whole
from ..tracing.injected import InjectedModule
from ..tracing.parts import patched_parts
from ..tracing.prepare import unwrap
from .ablation import frozen, means_of
from .data import Effect
from .effects import Differences
from .feeds import KEPT_BYTES, Batch, Feed
from .quiet import evaluated, exchanged, run
from .scoring import change
from .study import Progress, placed
from .watching import Watch, Watched


@dataclass(frozen=True, slots=True)
class Folding:
    """What was folded: the blocks, in the order in which they were; those that were not, with the reason.

    `error` is the mean relative change of the outputs over `images` images that were kept aside, with its interval.
    `parameters` and `race` are before and after; `race` is None where nothing was folded or speed was not asked for.
    """

    folded: tuple[str, ...]
    kept: tuple[tuple[str, str], ...]
    tolerance: float
    error: Effect
    images: int
    parameters: tuple[int, int]
    race: Race | None = None


def fold(
    patched: nn.Module,
    data: Iterable[Any],
    tolerance: float = 0.01,
    *,
    batches: int | None = None,
    bench_seconds: float = 3.0,
    progress: Callable[[str, float], None] | None = None,
) -> InjectedModule:
    """The model with its calmest gates as factors of the norms or convolutions before them: no time, no parameters.

    Every second batch is for looking: the means of the gates' weights, and how far freezing each site alone moves the
    outputs. On the others, which are kept aside, sites are frozen together, the cheapest first, as long as the mean
    relative change of the outputs (and the upper end of its interval) stays within the tolerance. The result has
    weights of its own and is a patched model like any other; its `folding` says what was done, and the notes of its
    plan what `remove` cannot bring back: the means stay in the layers.

    >>> import torch
    >>> from attn_inject import fold, inject
    >>> from attn_inject.zoo.cifar import models
    >>> patched = inject(models()["resnet20"](), "se", init="identity", stages=0)
    >>> folded = fold(patched, [torch.randn(2, 3, 32, 32) for _ in range(2)], 0.001, bench_seconds=0)
    >>> folded.folding.folded, folded.folding.parameters
    (('layer1.0', 'layer1.1', 'layer1.2'), (269818, 269722))

    Args:
        patched: what `inject`, `attach` or `load` gave; it stays as it is.
        data: as for `gates`; at least two batches.
        tolerance: the relative change of the outputs that is allowed, such as 0.01.
        batches: how many batches to take; all if None.
        bench_seconds: how long to measure the speed before and after; 0 does not.
        progress: called with a text and the share that is done.

    Raises:
        PlanError: `patched` holds no attention, or has no graph.
        AttnInjectError: a tolerance below zero, data of fewer than two batches, or on which the model does not run.

    """
    if not 0 <= tolerance < float("inf"):
        raise AttnInjectError(f"tolerance must be a number from 0, got {tolerance!r}")
    tell = progress or (lambda _text, _share: None)
    model = as_graph(unwrap(patched))
    halves = _Halves(data, batches, model)
    with evaluated(model):
        sites, kept = _candidates(model, halves)
        chosen, error, refused = _chosen(model, sites, halves, tolerance, tell)
        first = next(halves.part(1))
    result = with_constants(model, {site.insertion.module: means_of(site) for site in chosen})
    race = None
    if chosen and bench_seconds > 0:
        settings = BenchSettings(device=next(model.parameters()).device.type, batch=first.size, seconds=bench_seconds)
        race = Contest((model, result), first.inputs.on_meta(), settings).inference(progress)
    vars(result)["folding"] = Folding(
        folded=tuple(site.insertion.site.block for site in chosen),
        kept=(*kept, *refused),
        tolerance=tolerance,
        error=error.effect("outputs", 1),
        images=error.count,
        parameters=(_count(model), _count(result)),
        race=race,
    )
    return result.train(mode=patched.training)  # type: ignore[return-value]


class _Halves:
    """The data in two parts, batch by batch; what can be gone through only once is kept up to a bound."""

    def __init__(self, data: Iterable[Any], batches: int | None, model: nn.Module) -> None:
        feed = data if isinstance(data, Feed) else Feed(data)
        self._model = model
        self._held: list[Batch] | None = None
        self._feed, self._batches = feed, batches
        if feed.is_single:
            self._held, size = [], 0
            for batch in feed.first(batches):
                size += batch.bytes
                if size > KEPT_BYTES:
                    break
                self._held.append(batch)

    def part(self, which: int) -> Iterator[Batch]:
        """Every second batch, where the model is: 0 those to look at, 1 those kept aside."""
        batches = self._feed.first(self._batches) if self._held is None else self._held
        return placed(islice(batches, which, None, 2), self._model)


def _candidates(model: nn.Module, halves: _Halves) -> tuple[list[Watched], list[tuple[str, str]]]:
    """(the sites that can be folded, after a look at their gates; the blocks of the others, with the reason)."""
    parts = patched_parts(model)
    pairs = [(part, i, in_whole(path, i)) for path, part in parts.items() for i in part.injection.plan.insertions]
    if not pairs:
        raise PlanError(f"{type(model).__name__} has no attention that inject() or attach() put in")
    watch = Watch(model, [whole for _, _, whole in pairs])
    for batch in halves.part(0):
        with watch.looking():
            run(model, batch)
    sites, kept = [], []
    for site, (part, insertion, whole) in zip(watch.sites, pairs, strict=True):
        try:
            layer_before(part, insertion)
            if site.nature != "gate":
                raise LookupError("it is no gate: its weights differ from place to place")
            sites.append(site)
        except LookupError as reason:
            kept.append((whole.site.block, str(reason)))
    return sites, kept


def _chosen(
    model: nn.Module, sites: Sequence[Watched], halves: _Halves, tolerance: float, tell: Progress
) -> tuple[list[Watched], Differences, list[tuple[str, str]]]:
    """(what stays within the tolerance, how far the outputs then move, why the rest does not)."""
    error = _moved(model, [], halves.part(1))
    if not error.count:
        raise AttnInjectError("fold needs at least two batches of data: one to look at, and one to be judged by")
    costs = {site: _moved(model, [site], halves.part(0)).mean for site in sites}
    ordered = sorted(sites, key=costs.__getitem__)
    for index, site in enumerate(ordered):
        tell("folding", index / len(ordered))
        tried = _moved(model, ordered[: index + 1], halves.part(1))
        bound = tried.effect("outputs", 1)
        if (bound.mean if bound.high is None else bound.high) > tolerance:
            reason = f"the outputs would change by {100 * bound.mean:.3g} %"
            refused = [(site.insertion.site.block, reason)]
            refused += [(one.insertion.site.block, "it moves more than one too many") for one in ordered[index + 1 :]]
            return ordered[:index], error, refused
        error = tried
    return ordered, error, []


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _moved(model: nn.Module, sites: Sequence[Watched], batches: Iterator[Batch]) -> Differences:
    """How far the outputs move with these sites frozen to their means."""
    found = Differences()
    for batch in batches:
        outputs = run(model, batch)
        with exchanged({site.module: frozen(site) for site in sites}):
            found.add(change(outputs, run(model, batch)))
    return found
