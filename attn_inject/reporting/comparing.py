"""Models x choices: make every combination, report on it, and put the reports side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import AttentionError, AttnInjectError, PlanError
from ..planning.choices import Choices
from ..surgery.inject import inject_as_chosen
from ..types import Source
from ..zoo.building import build
from ..zoo.parsing import parse_source
from .comparison import Candidate, ComparisonData, baseline, candidate, comparison
from .report import Report, report_with
from .schema import COMPARISON_FORMAT, COMPARISON_VERSION
from .settings import ReportSettings

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

Progress = Callable[[str, float], None]


def compare(
    models: str | nn.Module | Iterable[str | nn.Module],
    wishes: Sequence[Choices | Any],
    *,
    settings: ReportSettings | None = None,
    example_inputs: Any = None,
    progress: Progress | None = None,
) -> Comparison:
    """Put every attention into every model, and say what each costs.

    Args:
        models: sources ("resnet50", "timm:resnet50d", ...) or models.
        wishes: what to put in, each in its turn: an attention as `inject` takes it, or `Choices` with all that belongs
            to it (a placement, options, ...).
        settings: of the reports; `bench_seconds` are for each combination.
        example_inputs: as for `inject`, the same for all models.
        progress: called with a text and the share that is done.

    A combination that does not exist (a placement that a block has no room for, say) becomes a candidate whose
    `problem` says so. Raises `AttnInjectError` where nothing could be made.

    """
    settings = settings or ReportSettings()
    wanted = [models] if isinstance(models, (str, nn.Module)) else list(models)
    choices = [wish if isinstance(wish, Choices) else Choices(attention=wish) for wish in wishes]
    candidates: list[Candidate] = []
    reports: list[Report] = []
    for position, asked in enumerate(wanted):
        name, model, source = _model(asked, timed=settings.bench)
        made: list[tuple[Choices, Report]] = []
        for index, wish in enumerate(choices):
            if progress is not None:
                progress(f"{name} + {_label(wish)}", (position + index / len(choices)) / len(wanted))
            try:
                patched = inject_as_chosen(model, replace(wish, source=source), example_inputs=example_inputs)
            except (AttentionError, PlanError) as error:
                candidates.append(Candidate(name, _label(wish), wish.placement, problem=str(error)))
                continue
            made.append((wish, report_with(settings, model, patched)))
        if made:
            plain = baseline(name, [each for _, each in made])
            candidates += [plain, *(candidate(plain, _label(wish), wish.placement, each) for wish, each in made)]
            reports += [each for _, each in made]
    if not reports:
        raise AttnInjectError(f"nothing to compare: {candidates[0].problem}" if candidates else "nothing to compare")
    return shown(comparison(candidates, device=_device(reports), convention=settings.convention, units=settings.units))


def shown(data: ComparisonData) -> Comparison:
    """The same data, with the methods that show it."""
    return Comparison(**{item.name: getattr(data, item.name) for item in fields(data)})


@dataclass(frozen=True, slots=True)
class Comparison(ComparisonData):
    """Many attentions side by side; its fields are those of `ComparisonData`. Prints itself in a terminal."""

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, as `reporting.schema` documents them."""
        return {"format": COMPARISON_FORMAT, "version": COMPARISON_VERSION, **asdict(self)}

    def to_json(self, *, indent: int | None = 2) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_markdown(self) -> str:
        """The table as Markdown."""
        from .views.comparison_text import to_markdown

        return to_markdown(self)

    def plot(self, path: str | Path) -> None:
        """One chart of parameters against the second measure, the front marked; the file's ending picks the format."""
        from .views.comparison_plot import save_plot

        save_plot(self, path)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from .views.comparison_text import render

        yield from render(self, width=options.max_width)


def _label(wish: Choices) -> str:
    attention = wish.attention
    return attention if isinstance(attention, str) else getattr(attention, "__name__", str(attention))


def _model(asked: str | nn.Module, *, timed: bool) -> tuple[str, nn.Module, Source | None]:
    """Name, model and source; a model that will not run is built without weights, since counting needs none."""
    if isinstance(asked, nn.Module):
        return type(asked).__name__, asked, None
    source = parse_source(asked)
    return source.name, build(source, device=None if timed else "meta"), source


def _device(reports: Sequence[Report]) -> str | None:
    speed = next((each.speeds[0] for each in reports if each.speeds), None)
    return (
        None if speed is None else f"{speed.device_kind.upper()} ({speed.device}), {speed.dtype}, batch {speed.batch}"
    )
