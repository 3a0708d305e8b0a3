"""`attn-inject compare MODEL -a se -a eca`: attentions, placements, models, recipes and files side by side."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Annotated, cast

import typer

from attn_inject.planning.choices import Choices
from attn_inject.planning.recipe import load_recipe
from attn_inject.reporting.settings import ReportSettings
from attn_inject.types import Placement

from . import options
from .flags import in_flags
from .job import Files, check_attention, check_bench
from .loading import source_of
from .outputs import PLOT_ENDINGS, STDOUT, check_apart, check_output, say_written, write_text
from .progress import working
from .values import given, input_forms, kinds_of, numbers, pairs, sides

if TYPE_CHECKING:
    from attn_inject.reporting.comparing import Comparison

# What `save` writes and `load` reads.
_OF_FILES = (".pt", ".safetensors")
_OF_A_TABLE = ("table", "json", "markdown", "html", "plot", "force")


def command(
    ctx: typer.Context,
    models: options.Models = None,
    attention: options.AttentionNames = None,
    recipe: options.Recipes = None,
    table: Annotated[
        str | None,
        typer.Option(
            "--table", metavar="FILE", help="Show a sweep's table instead: .csv or .parquet.", show_default=False
        ),
    ] = None,
    placement: options.Placements = None,
    option: options.AttentionOptions = None,
    init: options.Init = None,
    preset: options.Preset = None,
    kinds: options.Kinds = None,
    stages: options.Stages = None,
    existing: options.Existing = None,
    input_size: options.InputSize = None,
    example_input: options.ExampleInputs = None,
    convention: options.Convention = "all",
    units: options.Units = "decimal",
    json: options.Json = None,
    markdown: options.Markdown = None,
    html: options.Html = None,
    plot: options.Plot = None,
    no_bench: options.NoBench = False,
    bench_seconds: options.BenchSeconds = 3.0,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    batch: options.Batch = None,
    channels_last: options.ChannelsLast = False,
    compile: options.Compile = False,
    threads: options.Threads = None,
    trust_source: options.TrustSource = False,
    force: options.Force = False,
) -> None:
    """Compare attentions, placements, models, recipes and saved files: parameters, arithmetic and speed."""
    files = Files(
        json=check_output(json, "--json", force=force, stdout=True),
        markdown=check_output(markdown, "--markdown", force=force),
        html=check_output(html, "--html", force=force),
        plot=check_output(plot, "--plot", force=force, endings=PLOT_ENDINGS),
    )
    check_apart(files.json, files.markdown, files.html, files.plot)
    if table is not None:
        _must_be_alone(ctx)
        from attn_inject.sweeping.table import SweepTable

        _show(SweepTable.read(table).comparison(), files)
        return
    # What is named twice is measured once.
    models, attention, recipes, placement = (
        list(dict.fromkeys(named or [])) for named in (models, attention, recipe, placement)
    )
    plain = [model for model in models if not model.endswith(_OF_FILES)]
    # A recipe has its model, and a file both.
    if not models and not recipes:
        raise typer.BadParameter("say which, or give --recipe NAME or --table FILE", param_hint="MODEL...")
    if plain and not attention and not recipes:
        raise typer.BadParameter("say which, or give --table FILE", param_hint="--attention")
    forms = input_forms(example_input, "--example-input", input_size=input_size, size_option="--input-size")
    chosen = pairs(option, "--option")
    asked = given(
        init=init,
        preset=preset,
        kinds=kinds_of(kinds),
        stages=numbers(stages, "--stages"),
        existing=existing,
        input_size=sides(input_size),
    )
    wishes = [
        Choices(attention=name, placement=cast(Placement, place), options=chosen, **asked)
        for name, place in product(attention, placement or ["standard"])
    ]
    settings = ReportSettings(
        convention=convention,  # type: ignore[arg-type]  # one of its words: the option's callback saw to it
        units=units,  # type: ignore[arg-type]
        bench=not no_bench,
        bench_seconds=bench_seconds,
        device=device,
        dtype=dtype,
        batch=batch,
        channels_last=channels_last,
        compile=compile,
        threads=threads,
    )
    check_bench(settings)
    sources = {model: source_of(model, {}) for model in plain}
    followed = [load_recipe(name) for name in recipes]
    for name in attention:
        check_attention(name, chosen)
    with working("comparing") as tell:
        from attn_inject.reporting.comparing import compare
        from attn_inject.saving.loading import load

        made = compare(
            [
                str(sources[model]) if model in sources else (model, load(model, trust_source=trust_source))
                for model in models
            ],
            wishes,
            recipes=followed,
            settings=settings,
            example_inputs=forms,
            progress=tell,
        )
    _show(made, files)


def _must_be_alone(ctx: typer.Context) -> None:
    """Refuse what would be lost in silence: a table has been measured already."""
    for parameter in ctx.command.params:
        name = str(parameter.name)
        if name not in _OF_A_TABLE and ctx.params.get(name) not in (None, [], (), parameter.default):
            raise typer.BadParameter("--table shows what was measured: leave this out", param_hint=parameter.opts[-1])


def _show(made: Comparison, files: Files) -> None:
    made = replace(
        made,
        candidates=tuple(
            each if each.problem is None else replace(each, problem=in_flags(each.problem)) for each in made.candidates
        ),
    )
    if files.json != STDOUT:
        from rich.console import Console

        Console().print(made)
    texts = ((files.json, made.to_json), (files.markdown, made.to_markdown), (files.html, made.to_html))
    for path, text in texts:
        if path is not None:
            write_text(path, text())
            say_written(path, aside=files.json == STDOUT)
    if files.plot is not None:
        made.plot(files.plot)
        say_written(files.plot, aside=files.json == STDOUT)
