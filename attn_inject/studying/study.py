"""One pass that looks at the gates, a second one that does without each of them, and the rows that come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import AttnInjectError, PlanError
from ..surgery.records import in_whole, records_of
from ..tracing.inputs import dtype_of
from ..tracing.prepare import unwrap
from ..types import counted
from .ablation import Ablated, ablate
from .data import FEWEST_IMAGES, STUCK, ChannelFigures, GateRow, GatesData, SelectiveChannel
from .effects import Differences
from .feeds import KEPT_BYTES, Batch, Feed
from .moments import MOST_CLASSES
from .quiet import evaluated, run
from .scoring import Loss, Scoring
from .watching import Watch, Watched

Progress = Callable[[str, float], None]

_MOST_SELECTIVE = 8
_PERCENTILES = torch.arange(0, 11, dtype=torch.float64, device="cpu") / 10
# A spread below so much of the mean is rounding, and has no share between classes.
_NO_SPREAD = 1e-6


def study(
    patched: nn.Module,
    data: Feed | Iterable[Any],
    *,
    loss: Loss | None = None,
    ablation: bool = True,
    batches: int | None = None,
    progress: Progress | None = None,
) -> GatesData:
    """What `reporting.gates.gates` gives, as data; its arguments and errors."""
    model = unwrap(patched)
    insertions = [in_whole(part, each) for part, record in records_of(model) for each in record.plan.insertions]
    if not insertions:
        raise PlanError(f"{type(model).__name__} has no attention that inject() or attach() put in")
    feed = data if isinstance(data, Feed) else Feed(data)
    watch = Watch(model, insertions)
    tell = progress or (lambda _text, _share: None)
    scoring = Scoring(loss, feed.classes)
    with evaluated(model):
        look = _Look(model, watch, feed, tell, keeps=ablation and feed.is_single)
        look.over(batches)
        results: dict[Watched, Ablated] = {}
        score: Differences | None = None
        if ablation:
            again = iter(look.kept) if feed.is_single else placed(feed.first(batches), model)

            def told(batch: int, number: int) -> None:
                tell("taking sites out", (batch + number / len(watch.sites)) / max(1, look.batches))

            results, score = ablate(model, watch.sites, again, scoring, told)
    scored = score.count if score is not None and scoring.measure != "outputs" else 0
    measured = len(results)
    rows = []
    for site in watch.sites:
        effects = {}
        if (ablated := results.get(site)) is not None and scoring.measure is not None and ablated.frozen.count:
            effects = {
                name: each.effect(scoring.measure, measured)
                for name, each in (("frozen", ablated.frozen), ("without", ablated.without))
                if each.count
            }
        rows.append(_row(site, effects))
    ablated_images = max((each.frozen.count for each in results.values()), default=0)
    return GatesData(
        title=_title(model),
        data=feed.name,
        synthetic=feed.synthetic,
        images=look.images,
        classes=watch.sites[0].by_class.classes,
        sites=tuple(rows),
        measure=scoring.measure or "outputs",
        score=score.mean if score is not None and scored else None,
        ablated_images=ablated_images,
        notes=(*feed.notes, *look.notes(ablated_images if ablation else None), *scoring.notes, *_notes(watch.sites)),
    )


class _Look:
    """The pass that looks: what it has seen, and what it keeps of data that it can see only once."""

    def __init__(self, model: nn.Module, watch: Watch, feed: Feed, tell: Progress, *, keeps: bool) -> None:
        self.images = self.batches = self._kept_bytes = 0
        self.kept: list[Batch] = []
        self._model, self._watch, self._feed, self._tell, self._keeps = model, watch, feed, tell, keeps

    def over(self, batches: int | None) -> None:
        """Run the model on all of them.

        Raises:
            AttnInjectError: there is none, or one on which the model does not run.

        """
        for batch in placed(self._feed.first(batches), self._model):
            self._tell(f"looking: {self.images} images", self.batches / batches if batches else 0.0)
            self._watch.labels = None if (labels := batch.labels) is None else labels.cpu()
            with self._watch.looking():
                run(self._model, batch)
            self._watch.settle(self._model, batch)
            self.images += batch.size
            self.batches += 1
            if self._keeps and self._kept_bytes + batch.bytes <= KEPT_BYTES:
                self.kept.append(batch)
                self._kept_bytes += batch.bytes
            else:
                self._keeps = False
        if not self.images:
            raise AttnInjectError(f"{self._feed.name} gave no batch: nothing can be said of the gates")

    def notes(self, ablated: int | None) -> Iterator[str]:
        """What of this a reader must know."""
        if self.images < FEWEST_IMAGES:
            yield f"{self.images} images are few: means are rough, and there are no intervals below {FEWEST_IMAGES}"
        if len(self._watch.sites[0].by_class.classes) == MOST_CLASSES:
            yield f"the first {MOST_CLASSES} classes were followed; images of others are left out of `between`"
        if ablated is not None and ablated < self.images and not self._feed.is_single:
            lacking = "the others have no targets, or came only once"
            yield f"effects are those of {ablated} of {self.images} images: {lacking}"
        elif ablated is not None and ablated < self.images:
            megabytes = KEPT_BYTES // 1024**2
            yield (
                f"effects are those of the first {ablated} images: the data can be read only once, and up to "
                f"{megabytes} MiB of it are kept"
            )


def placed(batches: Iterable[Batch], model: nn.Module) -> Iterator[Batch]:
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    return (batch.on(device, dtype_of(model)) for batch in batches)


def _title(model: nn.Module) -> str:
    records = records_of(model)
    source = next((record.plan.source for _, record in records if record.plan.source is not None), None)
    attentions = dict.fromkeys(record.plan.attention for _, record in records)
    return " + ".join([str(source) if source is not None else type(model).__name__, *attentions])


def _notes(sites: Sequence[Watched]) -> Iterator[str]:
    if maps := [site for site in sites if site.nature == "map"]:
        name = maps[0].insertion.attention
        yield (f"{name} weighs places too: its weights here are the factors per channel that explain its output best")
    if branches := [site for site in sites if site.nature == "branches"]:
        name = branches[0].insertion.attention
        stands = "" if branches[0].can_go else "; it stands in the place of a convolution, and cannot be taken out"
        yield f"{name} weighs branches: its weights here are each branch's shares, which sum to 1 in a channel{stands}"
    if views := [site for site in sites if site.has_unknown_views]:
        yield (
            f"the model makes several maps of one image at {counted(len(views), 'site')}, and of which image is not "
            "known: these maps are left out of `between`"
        )
    if others := [site for site in sites if site.nature == "other"]:
        yield (
            f"{others[0].insertion.attention} stands in the place of a convolution, or changes the shape "
            f"({len(others)} sites): it has no weights to show, and cannot be taken out"
        )


def _row(site: Watched, effects: dict[str, Any]) -> GateRow:
    insertion, where = site.insertion, site.insertion.site
    common: dict[str, Any] = {
        "block": where.block,
        "kind": where.kind,
        "stage": where.stage,
        "channels": insertion.channels,
        "size": where.size,
        "calls": where.calls,
        "placement": insertion.placement,
        "attention": insertion.attention,
        "module": insertion.module,
        "nature": site.nature,
        "top": site.top,
        **effects,
    }
    known = site.weights.known
    if site.nature == "other" or not bool(known.any()):
        return GateRow(**common)
    mean, variance = site.weights.mean[known], site.weights.variance[known]
    square = float((variance + mean.square()).mean())
    count = site.weights.count.clamp(min=1)
    closed, opened = site.closed / count, site.opened / count
    between, by_channel = _between(site)
    return GateRow(
        **common,
        weight=float(mean.mean()),
        movement=float(variance.mean() / square) ** 0.5 if square else 0.0,
        closed=float((closed[known] >= STUCK).double().mean()),
        opened=float((opened[known] >= STUCK).double().mean()),
        between=between,
        percentiles=tuple(torch.quantile(mean, _PERCENTILES).tolist()),
        figures=ChannelFigures(
            mean=_listed(site.weights.mean, known),
            spread=_listed(site.weights.variance.sqrt(), known),
            closed=_listed(closed, known),
            opened=_listed(opened, known),
            between=() if by_channel is None else _listed(by_channel, known),
        ),
        selective=_selective(site, by_channel),
    )


def _between(site: Watched) -> tuple[float | None, torch.Tensor | None]:
    """(the share of the site's spread between classes, that of each channel); None where there are no classes."""
    if (parts := site.by_class.parts()) is None:
        return None, None
    between, total = parts
    moving = site.weights.variance.sqrt() > _NO_SPREAD * site.weights.mean.abs()
    between, total = torch.where(moving, between, 0.0), torch.where(moving, total, 0.0)
    whole = float(total.sum())
    return float(between.sum()) / whole if whole else 0.0, between / total.clamp(min=1e-300)


def _selective(site: Watched, by_channel: torch.Tensor | None) -> tuple[SelectiveChannel, ...]:
    if by_channel is None:
        return ()
    means = site.by_class.means
    order = by_channel.argsort(descending=True, stable=True)[:_MOST_SELECTIVE].tolist()
    return tuple(
        SelectiveChannel(channel, float(by_channel[channel]), tuple(means[:, channel].tolist()))
        for channel in order
        if by_channel[channel] > 0
    )


def _listed(values: torch.Tensor, known: torch.Tensor) -> tuple[float | None, ...]:
    return tuple(
        round(value, 6) if there else None for value, there in zip(values.tolist(), known.tolist(), strict=True)
    )
