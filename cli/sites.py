"""`attn-inject sites MODEL`: where attention would go, and with `--why` what is no site and for which reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from attn_inject.errors import PlanError
from attn_inject.types import DEFAULT_KINDS, Kind, counted, guard_notes

from . import options
from .loading import describe, input_size_of, source_of
from .progress import working
from .values import given, input_forms, pairs, sides, words
from .why import plain_blocks, reasons

if TYPE_CHECKING:
    from rich.table import Table

    from attn_inject.types import Sites


def command(
    model: options.Model,
    why: Annotated[bool, typer.Option("--why", help="Say of every add and concat that is no site, why.")] = False,
    kinds: options.Kinds = None,
    scope: options.Scope = None,
    model_arg: options.ModelArgs = None,
    input_size: options.InputSize = None,
    example_input: options.ExampleInputs = None,
) -> None:
    """Show where attention would go in a model."""
    source = source_of(model, pairs(model_arg, "--model-arg"))
    size: Sequence[int] | None = sides(input_size)
    forms = input_forms(example_input, "--example-input", input_size=input_size, size_option="--input-size")
    asked = given(kinds=words(kinds), scope=scope)
    with working("reading the model"):
        from attn_inject.sites.kinds import checked_kinds
        from attn_inject.sites.reading import find_sites
        from attn_inject.zoo.building import build

        built = build(source, device="meta")
        size = None if forms else input_size_of(size, built, source)
        wanted = checked_kinds(asked.pop("kinds", DEFAULT_KINDS))
        seen: tuple[Kind, ...] = (*wanted, "plain") if why else wanted
        every = find_sites(built, input_size=size, example_inputs=forms, kinds=seen, **asked)
        found = replace(every, items=tuple(site for site in every if site.kind in wanted))
        plain = [site for site in every if site.kind not in wanted]
    if not found and not why:
        raise PlanError(f"{source} has no sites; 'attn-inject sites {model} --why' lists what was seen")
    from rich.console import Console

    console = Console()
    console.print(f"{describe(source)}: {counted(len(found), 'site')}", highlight=False)
    if found:
        console.print(_table(found))
    if found.recorded:
        once = f"from one run, since there is no graph: {found.recorded}"
        console.print(f"{once}; --form module can gate these sites, a graph cannot", markup=False, highlight=False)
    for line in guard_notes(found.guards, any_size=found.any_size):
        console.print(line, markup=False, highlight=False)
    if plain:
        console.print(plain_blocks(plain, wanted), markup=False, highlight=False)
    if why:
        for part in reasons(found.skipped):
            console.print(part, highlight=False)


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
