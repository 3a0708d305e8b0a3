"""`attn-inject sites MODEL`: where attention would go, and with `--why` what is no site and for which reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from attn_inject.errors import PlanError
from attn_inject.types import guard_notes

from . import options
from .loading import describe, input_size_of, source_of
from .progress import working
from .values import given, input_forms, numbers, pairs, words

if TYPE_CHECKING:
    from rich.table import Table

    from attn_inject.types import Sites


def command(
    model: options.Model,
    why: Annotated[bool, typer.Option("--why", help="List every add and concat that is no site, and why.")] = False,
    kinds: options.Kinds = None,
    scope: options.Scope = None,
    model_arg: options.ModelArgs = None,
    input_size: options.InputSize = None,
    example_input: options.ExampleInputs = None,
) -> None:
    """Show where attention would go in a model."""
    source = source_of(model, pairs(model_arg, "--model-arg"))
    size: Sequence[int] | None = numbers(input_size, "--input-size", separator="x")
    forms = input_forms(example_input, "--example-input", input_size=input_size, size_option="--input-size")
    asked = given(kinds=words(kinds), scope=scope)
    with working("reading the model"):
        from attn_inject.sites.reading import find_sites
        from attn_inject.zoo.building import build

        built = build(source, device="meta")
        size = None if forms else input_size_of(size, built, source)
        found = find_sites(built, input_size=size, example_inputs=forms, **asked)
    if not found and not why:
        raise PlanError(f"{source} has no sites; 'attn-inject sites {model} --why' lists what was seen")
    from rich.console import Console

    console = Console()
    console.print(f"{describe(source)}: {len(found)} sites", highlight=False)
    if found:
        console.print(_table(found))
    if found.recorded:
        line = (
            f"from one run, since there is no graph: {found.recorded}; attach() can gate these sites, inject() cannot"
        )
        console.print(line, markup=False, highlight=False)
    for line in guard_notes(found.guards, any_size=found.any_size):
        console.print(line, markup=False, highlight=False)
    if why:
        console.print(_reasons(found))


def _table(sites: Sites) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    layouts = {site.layout for site in sites}
    existing = any(site.existing for site in sites)
    table.add_column("block", overflow="fold")
    table.add_column("kind")
    for name in ("stage", "channels", "size"):
        table.add_column(name, justify="right")
    if layouts != {"channels_first"}:
        table.add_column("layout")
    if existing:
        table.add_column("has already", overflow="fold")
    for site in sites:
        calls = f" (runs {site.calls} times)" if site.calls > 1 else ""
        row = [(site.block or "(model)") + calls, site.kind, str(site.stage), str(site.channels)]
        row.append("x".join(map(str, site.size)))
        if layouts != {"channels_first"}:
            row.append(site.layout.replace("_", " "))
        if existing:
            row.append(site.existing)
        table.add_row(*row)
    return table


def _reasons(sites: Sites) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, title=f"{len(sites.skipped)} not taken")
    table.title_justify = "left"
    table.add_column("operation", no_wrap=True)
    table.add_column("block", overflow="fold")
    table.add_column("why", overflow="fold")
    for skipped in sites.skipped:
        table.add_row(f"{skipped.operation} ({skipped.node})", skipped.block or "(model)", skipped.reason)
    return table
