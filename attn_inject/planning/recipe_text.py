"""A plan as a recipe that makes it again: `attn-inject MODEL --recipe FILE`, with its sites listed by block."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..errors import PlanError
from ..types import Plan, Site, block_name
from .text import toml_of


def must_tell_apart(sites: Sequence[Site]) -> None:
    """Refuse sites that no recipe can choose among.

    Raises:
        PlanError: a block has several; names it.

    """
    counts = Counter(site.block for site in sites)
    for block, number in counts.items():
        if number > 1:
            raise PlanError(
                f"{block_name(block)} has {number} sites, and a recipe names blocks: take the plan from "
                "attn_inject.choose() in Python"
            )


def recipe_text(plan: Plan, sites: Sequence[Site], *, name: str, title: str, paper: str, parameters: int) -> str:
    """The TOML of a recipe that makes `plan` anew in its source.

    `sites` are all that the model has of the plan's kinds, and `parameters` what the patched model has.

    Raises:
        PlanError: the plan has no sites or no source, or what a recipe cannot say: several attentions, options that
            differ from site to site, one of several sites of a block.

    """
    must_tell_apart(sites)
    insertions = plan.insertions
    if not insertions or plan.source is None:
        raise PlanError("a recipe needs sites, and a model that can be built by its name")
    first = insertions[0]
    if any(
        (each.attention, each.options, each.placement) != (first.attention, first.options, first.placement)
        for each in insertions
    ):
        raise PlanError("a recipe has one attention with one set of options, and the plan has several")
    chosen = [each.site.block for each in insertions]
    table: dict[str, Any] = {
        "name": name,
        "title": title,
        "paper": paper,
        "model": str(plan.source),
        "attention": first.attention,
        "init": plan.init,
        "kinds": list(plan.kinds),
        "placement": first.placement,
    }
    if "" in chosen:
        # No pattern means the model itself and nothing else.
        table["exclude"] = [glob.escape(site.block) for site in sites if site.block not in chosen]
    else:
        table["include"] = [glob.escape(block) for block in chosen]
    if plan.scope:
        table["scope"] = plan.scope
    if plan.input_shape is not None:
        table["input_size"] = list(plan.input_shape[1:])
    table |= {"expect_sites": len(insertions), "expect_parameters": parameters}
    table |= {
        key: dict(value) for key, value in (("options", first.options), ("model_args", plan.source.args)) if value
    }
    return toml_of({key: value for key, value in table.items() if value != []})
