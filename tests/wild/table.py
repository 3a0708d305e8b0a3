"""The table of other people's models: `python -m tests.wild.table --out tests/wild/RESULTS.md`."""

from __future__ import annotations

import argparse
import importlib.metadata
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from attn_inject import AttnInjectError, PlanError, attach, find_sites, inject

from .models import RECORDED, RECORDED_WITHOUT, WILD, WITHOUT, Wild

_HEAD = """# Other people's models

Written by `python -m tests.wild.table --out tests/wild/RESULTS.md`; the checks are `pytest -m wild`. *Sites* are
residual sites, *as the code says* whether their block paths are those that the package's code has. *Any size*: whether
a second trace, at another size, gave the same graph; *guards* are the decisions of the model's code that are checked
when the patched model runs. *Trace* compares the untouched graphs with the model's own code, to the bit, in eval and in
train mode; where the code decides on data there is no graph, but a recording of a run, which `attach` follows. Networks
whose code adds no branch to a shortcut have no sites. torchvision's detectors, whole and by scope, are a test of their
own: `pytest -m zoo tests/zoo/test_detectors.py`. Which of transformers' models are left out, and why, is in
`tests/wild/test_covered.py`.

"""


def row(wild: Wild) -> Iterator[str]:
    """The cells of one network."""
    torch.manual_seed(0)
    model = wild.made()
    yield f"{wild.package} {wild.name}"
    start = time.perf_counter()
    try:
        sites = find_sites(model, input_size=wild.size, kinds=("residual",))
    except AttnInjectError as error:
        yield from (f"{type(error).__name__}: {error}", *[""] * 6)
        return
    seconds = time.perf_counter() - start
    yield str(len(sites))
    yield "yes" if sorted(site.block for site in sites) == wild.expected(model) else "no"
    yield "yes" if sites.any_size else "no"
    yield str(len(sites.guards))
    if not sites:
        yield from ("", "", f"{seconds:.1f} s")
        return
    yield "a recording" if sites.recorded else _traced(wild, model)
    try:
        attach(model, "se", reduction=4, input_size=wild.size, kinds=("residual",))
        yield "yes"
    except PlanError:
        yield "inject only"
    yield f"{seconds:.1f} s"


def _traced(wild: Wild, model: nn.Module) -> str:
    patched = inject(model, "se", reduction=4, init="identity", input_size=wild.size, kinds=("residual",))
    figures = {check.name: check.figure for check in patched.injection.verification.checks}
    return "equal" if figures["trace"].count("equal to the bit") == 2 else figures["trace"]


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    packages = ("torch", *dict.fromkeys(wild.package for wild in WILD))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    titles = ("network", "sites", "as the code says", "any size", "guards", "trace", "attach", "found in")
    lines = [f"| {' | '.join(titles)} |", "|---|---:|---|---|---:|---|---|---:|"]
    lines += [f"| {' | '.join(row(wild))} |" for wild in (*WILD, *RECORDED, *WITHOUT, *RECORDED_WITHOUT)]
    parser.parse_args().out.write_text(f"{_HEAD}{versions}\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
