"""What plans, sites and records print, and how short they are otherwise."""

from __future__ import annotations

import operator
from dataclasses import replace

import torch
from torch import nn

from attn_inject import apply_plan, find_sites, make_plan
from attn_inject.types import Guard, Plan, Sites

from .toys import Block, Toy

SIZE = (3, 16, 16)


def residual_net() -> nn.Module:
    return Toy(nn.Sequential(Block(operator.add), Block(operator.add)))


def test_sites_print_as_a_table() -> None:
    sites = find_sites(residual_net(), input_size=SIZE)
    lines = str(sites).splitlines()
    assert lines[0] == f"{len(sites)} sites"
    assert lines[1].split() == ["block", "kind", "stage", "channels", "size"]
    assert [line.split()[0] for line in lines[2 : 2 + len(sites)]] == [site.block or "(model)" for site in sites]
    assert repr(sites) == f"Sites({len(sites)} residual; {len(sites.skipped)} skipped)"
    assert sites._repr_html_() == f"<pre>{sites}</pre>"


def test_what_belongs_to_sites_is_printed_with_them() -> None:
    sites = find_sites(residual_net(), input_size=SIZE)
    had = replace(sites[0], existing="blocks.0.se")
    told = Sites((had,), sites.skipped, (Guard("net.py:7 `if h:`", "True"),), any_size=False, recorded="numpy")
    text = str(told)
    for part in (
        "has already",
        "blocks.0.se",
        "from one run, since there is no graph: numpy",
        "net.py:7",
        "this input",
    ):
        assert part in text
    assert str(Sites(())) == "0 sites"
    assert repr(Sites(())) == "Sites(none; 0 skipped)"


def test_plans_and_records_print_as_tables() -> None:
    model = residual_net()
    plan = make_plan(model, "se", reduction=4, input_size=SIZE)
    lines = str(plan).splitlines()
    count = len(plan.insertions)
    assert lines[0] == f"se at {count} sites, init paper"
    assert lines[1].split() == ["block", "kind", "module", "attention", "channels", "size", "placement"]
    assert all("se, reduction=4" in line for line in lines[2 : 2 + count])
    assert repr(plan) == f"Plan(se at {count} residual)"
    record = apply_plan(model, plan).injection
    text = str(record)
    assert text.startswith(str(plan))
    assert "ok   weights: " in text
    assert f"torch {torch.__version__.partition('+')[0]}" in text
    assert repr(record) == f"Injection({plan!r}, verified)"
    assert repr(replace(record, verification=None)).endswith("not verified)")


def test_a_plan_that_takes_out_says_so() -> None:
    site = replace(find_sites(residual_net(), input_size=SIZE)[0], existing="blocks.0.se")
    plan = Plan((), "none", removals=(site,), notes=("a note",), scope="body")
    assert str(plan).splitlines() == [
        "none at 0 sites, init paper, in body",
        f"taken out of {site.block or '(model)'}: blocks.0.se",
        "a note",
    ]
