"""`attn-inject MODEL --attention NAME`: the main job. Here its options become one `Job`; `job` does the work."""

from __future__ import annotations

from dataclasses import replace

import typer

from attn_inject.attention.specs import split_spec
from attn_inject.planning.choices import Choices
from attn_inject.planning.recipe import load_recipe
from attn_inject.reporting.settings import ReportSettings

from . import job, options
from .loading import source_of
from .outputs import LOADED_ENDINGS, MODEL_ENDINGS, PLOT_ENDINGS, check_apart, check_output
from .values import given, input_forms, kinds_of, numbers, pairs, per_stage, sides


def command(
    ctx: typer.Context,
    model: options.ModelOrRecipe = None,
    attention: options.AttentionName = None,
    option: options.AttentionOptions = None,
    reduction: options.Reduction = None,
    k: options.KernelSize = None,
    stage_option: options.StageOptions = None,
    init: options.Init = None,
    preset: options.Preset = None,
    name: options.ModuleName = None,
    recipe: options.Recipe = None,
    model_arg: options.ModelArgs = None,
    pretrained: options.Pretrained = False,
    checkpoint: options.Checkpoint = None,
    seed: options.Seed = None,
    input_size: options.InputSize = None,
    example_input: options.ExampleInputs = None,
    placement: options.Placement = None,
    kinds: options.Kinds = None,
    stages: options.Stages = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    every: options.Every = None,
    min_channels: options.MinChannels = None,
    existing: options.Existing = None,
    scope: options.Scope = None,
    form: options.Form = "graph",
    expect_sites: options.ExpectSites = None,
    full: options.Full = False,
    diff: options.Diff = False,
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
    training: options.Training = False,
    optimize: options.Optimize = False,
    out: options.Out = None,
    attention_only: options.AttentionOnly = False,
    force: options.Force = False,
) -> None:
    """Put attention into a model, report what it costs, and save it."""
    if len(attention or ()) > 1:
        raise typer.BadParameter(
            f"one model takes one attention; to see several side by side: attn-inject compare {model or 'MODEL'} "
            + " ".join(f"-a {name}" for name in attention or ()),
            param_hint="--attention",
        )
    if attention_only and out is None:
        raise typer.BadParameter(
            "it is about the file that --out writes, which is not there", param_hint="--attention-only"
        )
    files = job.Files(
        model=check_output(out, "--out", force=force, endings=LOADED_ENDINGS if attention_only else MODEL_ENDINGS),
        json=check_output(json, "--json", force=force, stdout=True),
        markdown=check_output(markdown, "--markdown", force=force),
        html=check_output(html, "--html", force=force),
        plot=check_output(plot, "--plot", force=force, endings=PLOT_ENDINGS),
    )
    check_apart(files.model, files.json, files.markdown, files.html, files.plot)
    asked = given(
        attention=attention[0] if attention else None,
        init=init,
        preset=preset,
        name=name,
        placement=placement,
        kinds=kinds_of(kinds),
        stages=numbers(stages, "--stages"),
        include=include,
        exclude=exclude,
        every=every,
        min_channels=min_channels,
        stage_options=per_stage(stage_option, "--stage-option"),
        existing=existing,
        scope=scope,
    )
    own = {**pairs(option, "--option"), **given(reduction=reduction, k=k)}
    args = pairs(model_arg, "--model-arg")
    # Not a change of the network: its parameters are the same at every size.
    size = given(input_size=sides(input_size))
    forms = input_forms(example_input, "--example-input", input_size=input_size, size_option="--input-size")
    followed = load_recipe(recipe) if recipe else None
    changed = bool(model or asked or own or args)
    if followed is not None:
        model, args = model or followed.model, {**followed.model_args, **args}
    if not model:
        raise typer.BadParameter("say which model, as in: attn-inject resnet50 --attention eca", param_hint="MODEL")
    if followed is not None:
        start = followed.choices
    elif attention:
        start = Choices(attention=attention[0])
    else:
        raise typer.BadParameter(
            "say which one, as in --attention eca; 'attn-inject attentions' lists them", param_hint="--attention"
        )
    # What a recipe says is said anew by a spec too; what the command line says twice is an error.
    named = split_spec(attention[0])[1] if attention else {}
    kept = {key: value for key, value in start.options.items() if key not in named}
    choices = replace(start, **asked, **size, options={**kept, **own})
    if optimize and training:
        raise typer.BadParameter("the optimised graph is for inference: leave --training out", param_hint="--optimize")
    if training and no_bench:
        raise typer.BadParameter("it measures a step, which --no-bench leaves out", param_hint="--training")
    job.run(
        job.Job(
            source=source_of(model, args, pretrained=pretrained, checkpoint=checkpoint, seed=seed),
            choices=choices,
            form=form,  # type: ignore[arg-type]  # one of its words: the option's callback saw to it
            inputs=forms,
            expect_sites=expect_sites,
            recipe=None if changed else followed,
            report=ReportSettings(
                convention=convention,  # type: ignore[arg-type]  # one of its words: the option's callback saw to it
                units=units,  # type: ignore[arg-type]
                bench=not no_bench,
                bench_seconds=bench_seconds,
                device=device,
                dtype=dtype,
                batch=batch,
                channels_last=channels_last,
                compile=compile,
                training=training,
                threads=threads,
            ),
            optimize=optimize,
            full=full,
            diff=diff,
            files=files,
            attention_only=attention_only,
            command=ctx.obj,
        )
    )
