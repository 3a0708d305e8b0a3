"""`attn-inject gates FILE --data FOLDER`: what the gates of a saved model do, and what it loses without that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .outputs import MODEL_ENDINGS, PLOT_ENDINGS, STDOUT, check_apart, check_output, say, say_written, write_text
from .progress import working

if TYPE_CHECKING:
    from attn_inject.reporting.gates import Gates


def command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A patched model that --out wrote.")],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="DATA",
            help="A folder of images (with a subfolder for each class, or flat), package.module:factory or "
            "file.py:factory of a DataLoader, or noise.",
        ),
    ],
    batches: Annotated[
        int,
        typer.Option(
            "--batches", metavar="N", min=1, help="How many batches to look at (default: 8).", show_default=False
        ),
    ] = 8,
    batch: Annotated[
        int, typer.Option("--batch", metavar="N", min=1, help="Images at once (default: 16).", show_default=False)
    ] = 16,
    no_ablation: Annotated[
        bool,
        typer.Option("--no-ablation", help="Look only: do not run the model without each site."),
    ] = False,
    trust_source: options.TrustSource = False,
    fold: Annotated[
        float | None,
        typer.Option(
            "--fold",
            metavar="TOLERANCE",
            min=0,
            help="Fold gates that hardly move into the layers before, while no more than this is lost (0.01).",
        ),
    ] = None,
    fold_by: options.FoldBy = "outputs",
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help="Save the folded model.")] = None,
    full: options.Full = False,
    json: options.Json = None,
    html: options.Html = None,
    plot: options.Plot = None,
    device: options.Device = "auto",
    force: options.Force = False,
) -> None:
    """Look at what the gates of a trained model learned, and at what they are worth."""
    json_file = check_output(json, "--json", force=force, stdout=True)
    html_file = check_output(html, "--html", force=force)
    plot_file = check_output(plot, "--plot", force=force, endings=PLOT_ENDINGS)
    out_file = check_output(out, "--out", force=force, endings=MODEL_ENDINGS)
    check_apart(json_file, html_file, plot_file, out_file)
    if fold is None and fold_by != "outputs":
        raise typer.BadParameter("there is nothing to fold without --fold TOLERANCE", param_hint="--fold-by")
    if out_file is not None and fold is None:
        raise typer.BadParameter("there is nothing new to save without --fold TOLERANCE", param_hint="--out")
    with working("loading the model") as tell:
        from attn_inject.cost.device import pick
        from attn_inject.reporting.gates import gates
        from attn_inject.saving.loading import load
        from attn_inject.studying.sources import feed_of

        where = pick(device)
        model = load(file, trust_source=trust_source).to(where.torch)
        feed = feed_of(data, model, batch=batch)
        made = gates(model, feed, ablation=not no_ablation, batches=batches, progress=tell)
        folded = None
        if fold is not None:
            from attn_inject.studying.fold import fold as fold_gates

            folded = fold_gates(model, feed, fold, by=fold_by, batches=batches, progress=tell)  # type: ignore[arg-type]
            made = replace(made, folding=folded.folding)
    if json_file != STDOUT:
        _show(made, full=full)
    if folded is not None and out_file is not None:
        from attn_inject.saving.checkpoint import save

        save(folded, out_file)
        say(f"saved {out_file}", aside=json_file == STDOUT)
    for path, text in ((json_file, made.to_json), (html_file, made.to_html)):
        if path is not None:
            write_text(path, text())
            say_written(path, aside=json_file == STDOUT)
    if plot_file is not None:
        made.plot(plot_file)
        say_written(plot_file, aside=json_file == STDOUT)


def _show(made: Gates, *, full: bool) -> None:
    from rich.console import Console

    from attn_inject.reporting.views.gates_text import render

    console = Console()
    console.print(*render(made, full=full, width=console.width), sep="\n")
