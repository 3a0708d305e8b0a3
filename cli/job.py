"""The main job's steps: build, inject, check what was expected, report, and write the files last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_inject.errors import PlanError
from attn_inject.planning.choices import Choices
from attn_inject.planning.recipe import Recipe
from attn_inject.reporting.settings import ReportSettings
from attn_inject.tracing.input_forms import InputForms
from attn_inject.types import Form, Source

from .loading import describe, input_size_of
from .outputs import STDOUT, say, say_written, write_text
from .progress import Tell, working

if TYPE_CHECKING:
    from torch import nn

    from attn_inject.reporting.report import Report


@dataclass(frozen=True, kw_only=True)
class Files:
    """What to write; None where nothing is asked for. `json` may be `STDOUT`: nothing else is printed there then."""

    model: Path | None = None
    json: Path | None = None
    markdown: Path | None = None
    html: Path | None = None
    plot: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of the main job, every option checked as far as that goes without the model; `command` is what was typed.

    `recipe` is there when its expectations hold: not when options change what it makes.
    """

    source: Source
    choices: Choices
    form: Form
    inputs: InputForms | None
    expect_sites: int | None
    recipe: Recipe | None
    report: ReportSettings
    optimize: bool
    full: bool
    diff: bool
    files: Files
    attention_only: bool
    command: str

    @property
    def prints_json(self) -> bool:
        """Whether standard output is for the JSON alone."""
        return self.files.json == STDOUT


def run(job: Job) -> None:
    """Do the job; nothing is written before all of it has worked."""
    check_bench(job.report)
    say(describe(job.source), aside=job.prints_json)
    check_attention(str(job.choices.attention), job.choices.options)
    original, patched = _inject(job)
    _check_expectations(job, patched)
    with working("counting") as tell:
        made = replace(_report(original, patched, job, tell), command=job.command)
    if not job.prints_json:
        _show(made, job)
    _write(made, patched, job)


def check_bench(settings: ReportSettings) -> None:
    """`must_be_measurable`, without loading torch where nothing is asked for."""
    if settings.device != "auto" or settings.dtype is not None:
        from attn_inject.reporting.speed import must_be_measurable

        must_be_measurable(settings, here=True)


def check_attention(name: str, options: Mapping[str, Any]) -> None:
    """Raise AttentionError for a name or an option that does not exist, before a model is built for it."""
    from attn_inject.attention.registry import resolve

    if name != "none":
        attention, settled = resolve(name).settled(options)
        attention.check_options(settled)


def _inject(job: Job) -> tuple[nn.Module, nn.Module]:
    with working("building the model"):
        import torch

        from attn_inject.surgery.attach import attach_as_chosen
        from attn_inject.surgery.inject import inject_as_chosen
        from attn_inject.zoo.building import build

        original = build(job.source, tell=lambda line: say(line, aside=job.prints_json))
    choices = replace(job.choices, source=job.source)
    if choices.scope is None and job.inputs is None:
        choices = replace(choices, input_size=input_size_of(choices.input_size, original, job.source))
    with working("injecting"):
        if job.source.seed is not None:
            torch.manual_seed(job.source.seed)
        make = inject_as_chosen if job.form == "graph" else attach_as_chosen
        return original, make(original, choices, example_inputs=job.inputs)


def _check_expectations(job: Job, patched: nn.Module) -> None:
    record: Any = patched.injection
    sites = len(record.plan.insertions)
    if job.expect_sites is not None and sites != job.expect_sites:
        raise PlanError(f"--expect-sites {job.expect_sites}: the plan has {sites}")
    if job.recipe is not None:
        job.recipe.must_match(sites, sum(parameter.numel() for parameter in patched.parameters()))


def _report(original: nn.Module, patched: nn.Module, job: Job, tell: Tell) -> Report:
    from attn_inject.reporting.report import report_with
    from attn_inject.surgery.forms import as_graph
    from attn_inject.tracing.inputs import inputs_of
    from attn_inject.tracing.parts import injected_part

    if job.form == "module" and not (job.optimize and job.report.bench):
        return report_with(job.report, original, patched, progress=tell)
    patched = as_graph(patched)
    # What surrounds the scope may be a network whose graph nobody can read; the part is what changed.
    part, scope = injected_part(patched)
    whole = original.get_submodule(scope) if scope else original
    if not (job.optimize and job.report.bench):
        return report_with(job.report, whole, part, progress=tell)
    from attn_inject.surgery.faster import fold_norms, optimize

    # The optimised graph computes the same, so only its speed is new; norms are folded in both, to be fair.
    inputs = inputs_of(part.graph_of("eval"))
    plain = fold_norms(whole, example_inputs=inputs)
    made = report_with(replace(job.report, bench=False), whole, part)
    faster = report_with(job.report, plain, optimize(part), progress=tell, example_inputs=inputs)
    return replace(
        made, title=f"{made.title}, speed of the optimised graph, norms folded in both", speeds=faster.speeds
    )


def _show(made: Report, job: Job) -> None:
    from rich.console import Console

    from attn_inject.reporting.views.console import render, render_diff

    console = Console()
    console.print(*render(made, full=job.full, width=console.width), sep="\n")
    if job.diff:
        console.print(*render_diff(made), sep="\n")


def _write(made: Report, patched: nn.Module, job: Job) -> None:
    if job.files.model is not None:
        from attn_inject.saving.checkpoint import save

        with working("saving"):
            save(patched, job.files.model, attention_only=job.attention_only)
        say(f"saved {job.files.model}", aside=job.prints_json)
    for path, text in (
        (job.files.json, made.to_json),
        (job.files.markdown, made.to_markdown),
        (job.files.html, made.to_html),
    ):
        if path is not None:
            write_text(path, text())
            say_written(path, aside=job.prints_json)
    if job.files.plot is not None:
        made.plot(job.files.plot)
        say_written(job.files.plot, aside=job.prints_json)
