"""Models x choices: make every combination, report on it, and put the reports side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..cost.parameters import holding
from ..errors import AttentionError, AttnInjectError, PlanError
from ..planning.choices import Choices
from ..planning.published import as_published
from ..planning.recipe import Recipe
from ..surgery.inject import inject_as_chosen
from ..surgery.records import records_of
from ..tracing.prepare import unwrap
from ..types import Source
from ..zoo.sizes import input_size as made_for
from .asked import AskedModel, Models, Wanted, asked_models, bare_model_of
from .comparison import Candidate, ComparisonData, baseline, candidate, comparison
from .data import ReportData, Speed
from .inputs import report_inputs
from .pages import Page
from .report import report_with
from .schema import COMPARISON_FORMAT, COMPARISON_VERSION
from .settings import ReportSettings, settings_of
from .speed import bench_settings, measure_side_by_side
from .subject import Subject

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

Progress = Callable[[str, float], None]
# The part of the work, as progress shows it, before clocks run.
_COUNTING = 0.3


def compare(
    models: Models = (),
    attentions: Sequence[Choices | Any] = (),
    *,
    recipes: Sequence[str | Path | Recipe] = (),
    example_inputs: Any = None,
    progress: Progress | None = None,
    settings: ReportSettings | None = None,
    **others: Any,
) -> Comparison:
    """Put every attention into every model, and every recipe's into its own, and say what each costs.

    All that go into one model are timed in turns with it and with one another, in inference. A model that has been
    patched already comes with what it has, against itself without that.

    >>> from attn_inject import compare
    >>> from attn_inject.zoo.cifar import models
    >>> made = compare(models()["resnet20"](), ["se", "eca"], bench=False)
    >>> [(each.attention, each.parameters) for each in made.candidates]
    [('none', 269722), ('se', 271738), ('eca', 269749)]

    Args:
        models: sources ("resnet50", "timm:resnet50d", ...), models, or (name, model).
        attentions: what to put in, each in its turn: an attention as `inject` takes it, or `Choices` with all that
            belongs to it (a placement, options, ...).
        recipes: published networks: names (`attn-inject recipes`), `.toml` files, or recipes that were read.
        example_inputs: as for `inject`, the same for all models.
        progress: called with a text and the share that is done.
        settings: of the reports, or each by the name that `report` has for it (`bench=False`, `device="cpu"`, ...);
            `bench_seconds` are for each combination.

    A combination that does not exist (a placement that a block has no room for, say) becomes a candidate whose
    `problem` says so.

    Raises:
        SourceError: a model that cannot be found, imported or built.
        PlanError: a recipe that is not there, or is not a sound one; a model that nothing is to go into.
        AttnInjectError: nothing could be made, or settings that make no sense.

    """
    settings = settings_of(settings, **others)
    wanted = asked_models(models, attentions, recipes)
    candidates: list[Candidate] = []
    races: list[Speed] = []
    for position, asked in enumerate(wanted):

        def tell(text: str, share: float, done: int = position) -> None:
            if progress is not None:
                progress(text, (done + share) / len(wanted))

        found, speeds = candidates_of(asked, settings, example_inputs, tell)
        candidates += found
        races += speeds
    if all(each.problem is not None or each.attention == "none" for each in candidates):
        raise AttnInjectError(f"nothing to compare: {candidates[-1].problem if candidates else 'say which model'}")
    return shown(comparison(candidates, device=device_of(races), convention=settings.convention, units=settings.units))


def candidates_of(
    asked: AskedModel, settings: ReportSettings, example_inputs: Any, tell: Progress
) -> tuple[list[Candidate], list[Speed]]:
    """One model with every attention, counted one by one and timed in turns with one another: (all, the timings)."""
    bare = bare_model_of(asked, timed=settings.bench)
    name, model, source = asked.name, bare.model, bare.source
    size = made_for(model, source) if example_inputs is None else None
    made: list[_Made] = []
    if bare.patched is not None:
        label, patched = bare.patched
        made.append(_Made(label, _placement(patched), None, patched, _counted(settings, model, patched)))
    problems: list[Candidate] = []
    for index, wish in enumerate(asked.wanted):
        share = index / len(asked.wanted)
        tell(f"{name} + {wish.label}", _COUNTING * share if settings.bench else share)
        placement = wish.choices.placement
        try:
            patched = inject_as_chosen(model, fitted(wish.choices, source, size), example_inputs=example_inputs)
        except (AttentionError, PlanError) as error:
            problems.append(Candidate(name, wish.label, placement, problem=str(error)))
            continue
        made.append(_Made(wish.label, placement, wish, patched, _counted(settings, model, patched)))
    if not made:
        return problems, []
    speeds: list[Speed] = []
    if settings.bench:
        subjects = [Subject.of(unwrap(model), unwrap(each.patched)) for each in made]
        speeds = _raced(
            subjects, settings, example_inputs, lambda text, share: tell(text, _COUNTING + (1 - _COUNTING) * share)
        )
    plain = baseline(name, made[0].report, speeds)
    timed = speeds or repeat(None, len(made))
    choices = [wish.choices for wish in asked.wanted]
    found = []
    for each, speed in zip(made, timed, strict=True):
        there = as_published(each.wish.choices) if each.wish is not None else None
        meant = None
        if there is not None and there not in choices:
            meant = _parameters(model, fitted(there, source, size), example_inputs)
        found.append(replace(candidate(plain, each.label, each.placement, each.report, speed), as_published=meant))
    return [plain, *found, *problems], speeds


@dataclass(frozen=True)
class _Made:
    """A model with attention: what it is called, where that stands, the wish that it came from, and what it costs."""

    label: str
    placement: str
    wish: Wanted | None
    patched: nn.Module
    report: ReportData


def _counted(settings: ReportSettings, model: nn.Module, patched: nn.Module) -> ReportData:
    return report_with(replace(settings, bench=False), model, patched)


def _placement(patched: nn.Module) -> str:
    """Where the attention of a patched model stands; "" where it stands in several ways."""
    found = {each.placement for _, record in records_of(patched) for each in record.plan.insertions}
    return found.pop() if len(found) == 1 else ""


def _parameters(model: nn.Module, wish: Choices, example_inputs: Any) -> int | None:
    """What the model would hold with that; None where it cannot be made."""
    try:
        return holding(inject_as_chosen(model, wish, example_inputs=example_inputs)).parameters
    except (AttentionError, PlanError):
        return None


def fitted(wish: Choices, source: Source | None, size: tuple[int, ...] | None) -> Choices:
    """The choices for the model of `source`, which is made for inputs of `size`."""
    known = replace(wish, source=source)
    return replace(known, input_size=size) if wish.scope is None and wish.input_size is None else known


def _raced(subjects: Sequence[Subject], settings: ReportSettings, example_inputs: Any, tell: Progress) -> list[Speed]:
    """The speed of every subject: all that patch one part (or the whole) run in turns with it and one another."""
    groups: dict[int, list[int]] = {}
    for index, subject in enumerate(subjects):
        groups.setdefault(id(subject.original), []).append(index)
    speeds: dict[int, Speed] = {}
    for members in groups.values():
        first = subjects[members[0]]
        models = [first.original, *(subjects[index].patched for index in members)]
        given = report_inputs(first.original, first.patched, first.plan, input_size=None, example_inputs=example_inputs)
        speeds |= zip(members, measure_side_by_side(models, given, bench_settings(settings), tell), strict=True)
    return [speeds[index] for index in range(len(subjects))]


def shown(data: ComparisonData) -> Comparison:
    """The same data, with the methods that show it."""
    return Comparison(**{item.name: getattr(data, item.name) for item in fields(data)})


@dataclass(frozen=True, slots=True)
class Comparison(Page, ComparisonData):
    """Many attentions side by side; its fields are those of `ComparisonData`. Prints itself in a terminal.

    A notebook shows its page.
    """

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, as `reporting.schema` documents them."""
        data = asdict(self)
        for row, each in zip(data["candidates"], self.candidates, strict=True):
            row["resolved"] = each.resolved
        return {"format": COMPARISON_FORMAT, "version": COMPARISON_VERSION, **data}

    def to_json(self, *, indent: int | None = 2) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_markdown(self) -> str:
        """The table as Markdown."""
        from .views.comparison_text import to_markdown

        return to_markdown(self)

    def _page(self) -> str:
        from .views.comparison_html import to_html

        return to_html(self)

    def plot(self, path: str | Path) -> None:
        """One chart of parameters against the second measure, the front marked; the file's ending picks the format."""
        from .views.comparison_plot import save_plot

        save_plot(self, path)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from .views.comparison_text import render

        yield from render(self, width=options.max_width)

    def __str__(self) -> str:
        from .views.comparison_text import render
        from .views.plain import plain_text

        return plain_text(render(self))


def device_of(speeds: Sequence[Speed]) -> str | None:
    """Where and how the candidates were timed; None where they were not."""
    if not speeds:
        return None
    speed = speeds[0]
    return f"{speed.device_kind.upper()} ({speed.device}), {speed.dtype}, batch {speed.batch}"
