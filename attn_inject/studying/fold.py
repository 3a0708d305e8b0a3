"""Gates that hardly move become factors of the layers before them, as far as the outputs or the accuracy allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from ..cost.latency import BenchSettings, Contest, Race
from ..errors import AttnInjectError, PlanError, must_be_number, nearest
from ..surgery.constants import layer_before, with_constants
from ..surgery.folding import Folding, Pace
from ..surgery.forms import as_graph
from ..surgery.records import in_whole
from ..tracing.injected import InjectedModule
from ..tracing.parts import patched_parts
from ..tracing.prepare import unwrap
from ..tracing.restoring import in_mode
from ..tracing.sharded import must_not_be_sharded
from ..types import FOLD_MEASURES, Measure
from .ablation import means_of
from .costing import Costing, Halves
from .effects import Differences
from .quiet import evaluated, run
from .study import Progress
from .watching import Watch, Watched


def fold(
    patched: nn.Module,
    data: Iterable[Any],
    tolerance: float = 0.01,
    *,
    by: Measure = "outputs",
    batches: int | None = None,
    bench_seconds: float = 3.0,
    progress: Callable[[str, float], None] | None = None,
) -> InjectedModule:
    """The model with its calmest gates as factors of the norms or convolutions before them: no time, no parameters.

    Every second batch is for looking: the means of the gates' weights, and what freezing each site alone costs. On the
    others, which are kept aside, sites are frozen together, the cheapest first, as long as what that costs, and the
    upper end of its interval, stays within the tolerance: the mean relative change of the outputs, or, by accuracy,
    the share of images that the model then gets wrong and did before not, less those the other way round. Of other
    images than those nothing is promised. The result has weights of its own and is a patched model like any other; its
    `folding` says what was done, and the notes of its plan what `remove` cannot bring back: the means stay in the
    layers.

    Accuracy asks for more images: of n kept aside, all of which keep their answer, the interval still reaches to
    1.96 / (n + 2), so that a tolerance of 0.01 takes 194 of them. Targets that are no classes are refused: their loss
    has no scale by which a tolerance could be read.

    >>> import torch
    >>> from attn_inject import fold, inject
    >>> from attn_inject.zoo.cifar import models
    >>> patched = inject(models()["resnet20"](), "se", init="identity", stages=0)
    >>> folded = fold(patched, [torch.randn(2, 3, 32, 32) for _ in range(2)], 0.001, bench_seconds=0)
    >>> folded.folding.folded, folded.folding.parameters
    (('layer1.0', 'layer1.1', 'layer1.2'), (269818, 269722))

    Args:
        patched: what `inject`, `attach` or `load` gave; it stays as it is.
        data: as for `gates`; at least two batches. What comes once, or in another order each time, is read once and
            kept, up to 2 GiB; a warning says where that is not all.
        tolerance: what is allowed, such as 0.01: a relative change of the outputs, or a share of right answers (0.01
            is one point).
        by: what is held against the tolerance: the outputs, or the accuracy, for data with classes as targets.
        batches: how many batches to take; all if None.
        bench_seconds: how long to measure the speed before and after; 0 does not.
        progress: called with a text and the share that is done.

    Raises:
        PlanError: `patched` holds no attention, or has no graph.
        AttnInjectError: a tolerance below zero, data of fewer than two batches, or on which the model does not run; by
            accuracy also data without classes, or of fewer images than it takes.

    """
    if by not in FOLD_MEASURES:
        known = ", ".join(FOLD_MEASURES)
        raise AttnInjectError(f"by must be one of {known}; got {by!r}{nearest(str(by), FOLD_MEASURES)}")
    must_be_number("tolerance", tolerance, 0)
    must_be_number("bench_seconds", bench_seconds, 0)
    tell = progress or (lambda _text, _share: None)
    must_not_be_sharded(patched)
    model = as_graph(unwrap(patched))
    halves = Halves(data, batches, model)
    with evaluated(model):
        sites, kept = _candidates(model, halves)
        costing = Costing(model, halves, by)
        costing.must_resolve(tolerance)
        chosen, error, refused = _chosen(costing, sites, tolerance, tell)
        first = next(halves.part(1))
    result = with_constants(model, {site.insertion.module: means_of(site) for site in chosen})
    speed = None
    if chosen and bench_seconds > 0:
        settings = BenchSettings(device=next(model.parameters()).device.type, batch=first.size, seconds=bench_seconds)
        speed = _pace(Contest((model, result), first.inputs.on_meta(), settings).inference(progress))
    vars(result)["folding"] = Folding(
        folded=tuple(site.insertion.site.block for site in chosen),
        kept=(*kept, *refused),
        tolerance=tolerance,
        error=error.effect(by, 1),
        images=error.count,
        parameters=(_count(model), _count(result)),
        speed=speed,
        measure=by,
    )
    return in_mode(result, "train" if patched.training else "eval")  # type: ignore[no-any-return]


def _candidates(model: nn.Module, halves: Halves) -> tuple[list[Watched], list[tuple[str, str]]]:
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
                what = "are those of its branches" if site.nature == "branches" else "differ from place to place"
                raise LookupError(f"it is no gate: its weights {what}")
            sites.append(site)
        except LookupError as reason:
            kept.append((whole.site.block, str(reason)))
    return sites, kept


def _chosen(
    costing: Costing, sites: Sequence[Watched], tolerance: float, tell: Progress
) -> tuple[list[Watched], Differences, list[tuple[str, str]]]:
    """(what stays within the tolerance, what it costs, why the rest does not).

    The order comes of other images than the verdicts, and the first set that fails ends it: so each interval holds by
    itself, however many are tried (a fixed sequence of tests).
    """
    ordered = _cheapest_first(costing, sites)
    error = costing.nothing
    for index, site in enumerate(ordered):
        tell("folding", index / len(ordered))
        tried, _ = costing.of(ordered[: index + 1], 1)
        bound = tried.effect(costing.by, 1)
        # Not `>`: outputs that are no numbers stay within nothing.
        if not (bound.mean if bound.high is None else bound.high) <= tolerance:
            upper = "" if bound.high is None else f", up to {100 * bound.high:.3g}"
            reason = (
                f"{100 * bound.mean:.3g} points of accuracy would be lost{upper}"
                if costing.by == "accuracy"
                else f"the outputs would change by {100 * bound.mean:.3g} %{upper and upper + ' %'}"
            )
            refused = [(site.insertion.site.block, reason)]
            refused += [(one.insertion.site.block, "it costs more than one too many") for one in ordered[index + 1 :]]
            return ordered[:index], error, refused
        error = tried
    return ordered, error, []


def _cheapest_first(costing: Costing, sites: Sequence[Watched]) -> list[Watched]:
    """By what freezing each alone loses, where an answer that comes right by chance is no gain; then by the outputs."""
    costs = {}
    for site in sites:
        lost, moved = costing.of([site], 0)
        costs[site] = (max(0.0, lost.mean), moved.mean)
    return sorted(sites, key=costs.__getitem__)


def _pace(race: Race) -> Pace:
    before, after = (timing.median for timing in race.timings)
    return Pace(before, after, **asdict(race.latency))


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
