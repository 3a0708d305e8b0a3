"""`attn-inject choose MODEL -a eca --data FOLDER --budget latency=1.03`: where attention pays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attn_inject.studying.budget import budget_of

from . import options
from .job import check_attention
from .loading import describe, source_of
from .outputs import PLOT_ENDINGS, STDOUT, check_apart, check_output, say, say_written, write_text
from .progress import working
from .values import given, kinds_of, numbers, pairs

if TYPE_CHECKING:
    from attn_inject.studying.choice import Choice


def command(
    model: options.Model,
    attention: Annotated[
        list[str],
        typer.Option("--attention", "-a", metavar="NAME", help="One, such as se:reduction=4; several compete."),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="DATA",
            help="A folder of images with a subfolder for each of the model's classes, or package.module:factory or "
            "file.py:factory of a DataLoader of (input, target).",
        ),
    ],
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="LIMITS",
            help="latency=1.03 (times the plain model's), params=+1%, flops=+2M, sites=4; several with commas. "
            "Without, all sites that pay.",
        ),
    ] = None,
    steps: Annotated[
        int,
        typer.Option("--steps", metavar="N", min=1, show_default=False, help="Steps of each training (default: 300)."),
    ] = 300,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", metavar="N", min=1, show_default=False, help="How often every set is trained (default: 3)."
        ),
    ] = 3,
    lr: Annotated[
        float,
        typer.Option(
            "--lr", metavar="RATE", show_default=False, help="Learning rate of the first step, of Adam (default: 0.01)."
        ),
    ] = 0.01,
    batches: Annotated[
        int | None, typer.Option("--batches", metavar="N", min=1, help="How many batches to take; all without.")
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", metavar="N", min=1, show_default=False, help="Images at once (default: 32).")
    ] = 32,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="FILE", help="Keep what is finished here, and go on from it if it is there."),
    ] = None,
    option: options.AttentionOptions = None,
    model_arg: options.ModelArgs = None,
    pretrained: options.Pretrained = False,
    checkpoint: options.Checkpoint = None,
    seed: options.Seed = None,
    kinds: options.Kinds = None,
    placement: options.Placement = None,
    stages: options.Stages = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    min_channels: options.MinChannels = None,
    save_recipe: Annotated[
        str | None,
        typer.Option(
            "--save-recipe",
            metavar="FILE",
            help="Write the plan as a .toml file for --recipe. It has one attention: several then compete for the "
            "whole set, not site by site.",
        ),
    ] = None,
    json: options.Json = None,
    html: options.Html = None,
    plot: options.Plot = None,
    bench_seconds: options.BenchSeconds = 3.0,
    device: options.Device = "auto",
    force: options.Force = False,
) -> None:
    """Find the sites at which attention pays, within a budget, and say how sure that is."""
    json_file = check_output(json, "--json", force=force, stdout=True)
    html_file = check_output(html, "--html", force=force)
    plot_file = check_output(plot, "--plot", force=force, endings=PLOT_ENDINGS)
    recipe_file = check_output(save_recipe, "--save-recipe", force=force, endings=(".toml",))
    check_apart(json_file, html_file, plot_file, recipe_file)
    aside = json_file == STDOUT
    budget_of(budget)
    own = pairs(option, "--option")
    for name in attention:
        check_attention(name, own)
    asked = given(
        kinds=kinds_of(kinds),
        placement=placement,
        stages=numbers(stages, "--stages"),
        include=include,
        exclude=exclude,
        min_channels=min_channels,
    )
    source = source_of(model, pairs(model_arg, "--model-arg"), pretrained=pretrained, checkpoint=checkpoint, seed=seed)
    say(describe(source), aside=aside)
    if resume is not None and seed is None and not pretrained and checkpoint is None:
        say(f"no later run can go on from {resume} with random weights: give --seed N", aside=aside)
    with working("choosing") as tell:
        from attn_inject.cost.device import pick
        from attn_inject.planning.recipe_text import must_tell_apart, recipe_text
        from attn_inject.sites.reading import find_sites
        from attn_inject.studying.choose import study_choice
        from attn_inject.studying.sources import feed_of
        from attn_inject.zoo.building import build

        where = pick(device).torch
        plain = build(source, tell=lambda line: say(line, aside=aside)).to(where).eval()
        feed = feed_of(data, plain, batch=batch, source=source)
        sites = find_sites(plain, **given(kinds=kinds_of(kinds))) if recipe_file is not None else ()
        must_tell_apart(sites)
        made = study_choice(
            plain,
            attention,
            feed,
            budget=budget,
            steps=steps,
            seeds=seeds,
            lr=lr,
            batches=batches,
            mixed=recipe_file is None,
            bench_seconds=bench_seconds,
            resume=resume,
            progress=tell,
            source=source,
            **asked,
            **own,
        )
    if not aside:
        _show(made)
    if recipe_file is not None and made.plan.insertions:
        text = recipe_text(
            made.plan,
            sites,
            name=recipe_file.stem,
            title=made.plan.notes[0],
            paper=f"chosen on {made.data} within {made.budget or 'no budget'}",
            parameters=made.plain.params + made.rows[0].price.params,
        )
        write_text(recipe_file, text)
        say_written(recipe_file, aside=aside)
    elif recipe_file is not None:
        say(f"no site was chosen, so {recipe_file} was not written", aside=aside)
    if json_file is not None:
        from attn_inject.reporting.choice import choice_to_json

        write_text(json_file, choice_to_json(made))
        say_written(json_file, aside=aside)
    if html_file is not None:
        from attn_inject.reporting.views.choice_html import to_html

        write_text(html_file, to_html(made))
        say_written(html_file, aside=aside)
    if plot_file is not None:
        from attn_inject.reporting.views.choice_plot import save_plot

        save_plot(made, plot_file)
        say_written(plot_file, aside=aside)


def _show(made: Choice) -> None:
    from rich.console import Console

    from attn_inject.reporting.views.choice_text import render_choice

    console = Console()
    console.print(*render_choice(made, width=console.width), sep="\n")
