"""`attn-inject sweep MODEL... -a se -a eca --out table.parquet`: many models and attentions, one table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from attn_inject.reporting.settings import ReportSettings

from . import options
from .flags import in_flags
from .outputs import STDOUT, check_apart, check_output, say_written, write_text
from .progress import bar
from .values import given, kinds_of, numbers, pairs, sides

_WHERE = "Where it runs"


def command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="Models, or globs such as 'resnet*' of the zoos' names.", show_default=False
        ),
    ],
    attention: Annotated[
        list[str],
        typer.Option(
            "--attention",
            "-a",
            metavar="NAME",
            help="One, such as se:reduction=4; repeat it. none is the model as it is.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="FILE", help="The table: .csv or .parquet. What is done so far is kept in FILE.journal."
        ),
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(
            "--train", metavar="NAME", help="file.py:function(model, seed) that trains and gives the accuracy."
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", metavar="N", min=1, show_default=False, help="How often to train, from seed 0 on (default: 1)."
        ),
    ] = 1,
    pretrained: options.Pretrained = False,
    placement: options.Placements = None,
    option: options.AttentionOptions = None,
    init: options.Init = None,
    preset: options.Preset = None,
    kinds: options.Kinds = None,
    stages: options.Stages = None,
    existing: options.Existing = None,
    input_size: options.InputSize = None,
    no_latency: Annotated[
        bool, typer.Option("--no-latency", "--no-bench", help="Do not measure speed, which is what takes long.")
    ] = False,
    bench_seconds: options.BenchSeconds = 3.0,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    batch: options.Batch = None,
    threads: options.Threads = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            metavar="N",
            min=0,
            help="Of this machine; as many as it has processors, but one where speed is measured.",
            rich_help_panel=_WHERE,
            show_default=False,
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDRESS",
            help="Of a Ray cluster that does the work: auto, host:port, ray://host:port.",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Do rows again that ended in an error.", rich_help_panel=_WHERE)
    ] = False,
    json: options.Json = None,
    force: options.Force = False,
) -> None:
    """Put many attentions into many models, and make one table of it: what each costs, and how accurate it is."""
    # A table with its journal is this command's own: it is written anew when all rows are there.
    ours = out is not None and Path(f"{out}.journal").is_file()
    table = check_output(out, "--out", force=force or ours, endings=(".csv", ".parquet"))
    json_file = check_output(json, "--json", force=force, stdout=True)
    check_apart(table, json_file)
    asked: dict[str, Any] = given(
        init=init,
        preset=preset,
        kinds=kinds_of(kinds),
        stages=numbers(stages, "--stages"),
        existing=existing,
        input_size=sides(input_size),
        **pairs(option, "--option"),
    )
    sets = [{**asked, "placement": place} for place in placement or ["standard"]]
    settings = ReportSettings(bench_seconds=bench_seconds, device=device, dtype=dtype, batch=batch, threads=threads)
    with bar("sweeping") as tell:
        from attn_inject.sweeping.sweep import sweep

        made = sweep(
            models,
            attention,
            options=sets,
            out=table,
            train=train,
            seeds=seeds,
            pretrained=pretrained,
            latency=not no_latency,
            processes=processes,
            address=address,
            retry_errors=retry_errors,
            progress=tell,
            settings=settings,
        )
    if json_file != STDOUT:
        from rich.console import Console

        said = [row if row.error is None else replace(row, error=in_flags(row.error)) for row in made.rows]
        Console().print(replace(made, rows=tuple(said)))
    if table is not None:
        say_written(table, aside=json_file == STDOUT)
    if json_file is not None:
        write_text(json_file, made.to_json())
        say_written(json_file, aside=json_file == STDOUT)
