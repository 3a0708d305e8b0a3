"""`attn-inject gates FILE --data FOLDER`: what the gates of a saved model do, and what it loses without that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attn_inject.files.atomic import write_atomically

from . import options
from .outputs import PLOT_ENDINGS, STDOUT, check_output, write_text
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
    batches: Annotated[int, typer.Option("--batches", metavar="N", min=1, help="How many batches to look at.")] = 8,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Images at once.")] = 16,
    no_ablation: Annotated[
        bool, typer.Option("--no-ablation", help="Look only: do not run the model without each site.")
    ] = False,
    trust_source: Annotated[
        bool, typer.Option("--trust-source", help="Import code of somebody's own that FILE names.")
    ] = False,
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
    with working("loading the model") as tell:
        from attn_inject.cost.device import pick
        from attn_inject.reporting.gates import gates
        from attn_inject.saving.loading import load
        from attn_inject.studying.sources import feed_of

        where = pick(device)
        model = load(file, trust_source=trust_source).to(where.torch)
        feed = feed_of(data, model, batch=batch)
        made = gates(model, feed, ablation=not no_ablation, batches=batches, progress=tell)
    if json_file != STDOUT:
        _show(made, full=full)
    for path, text in ((json_file, made.to_json), (html_file, made.to_html)):
        if path is not None:
            write_text(path, text())
    if plot_file is not None:
        write_atomically(plot_file, made.plot)


def _show(made: Gates, *, full: bool) -> None:
    from rich.console import Console

    from attn_inject.reporting.views.gates_text import render

    console = Console()
    console.print(*render(made, full=full, width=console.width), sep="\n")
