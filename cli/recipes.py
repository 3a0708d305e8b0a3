"""`attn-inject recipes`: the published networks that one command makes."""

from __future__ import annotations

from attn_inject.planning.recipe import load_recipe, names


def command() -> None:
    """List the published networks that --recipe makes."""
    found = [load_recipe(name) for name in names()]
    width = max(len(recipe.name) for recipe in found)
    paper = ""
    for recipe in sorted(found, key=lambda r: (r.paper.split(",")[0], r.name)):
        if recipe.paper.split(",")[0] != paper:
            paper = recipe.paper.split(",")[0]
            print(f"{paper}")
        print(f"  {recipe.name:{width}}  {recipe.expect_parameters:>11,} parameters, {recipe.expect_sites} sites")
    print("\nRun one with: attn-inject --recipe NAME --out model.pt")
