"""Every CNN of both zoos: traced in both modes, its sites found, and compared with the oracle.

    python -m tests.zoo.sweep [--out FILE.md] [--workers N] [PATTERN ...]

writes a table (model, nodes, residual, mixed, the oracle's count, seconds) and exits with 1 if a model fails to trace
or an unexplained difference shows up.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import os
import pickle
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attn_inject.errors import TraceError

from .oracle import residual_blocks

# Detection models have no graph from the top (a `scope` reaches them), flow models take pairs, and the quantizable ones
# are compared with their float twins in test_sweep.py.
_NOT_FROM_THE_TOP = ("*rcnn*", "retinanet*", "ssd*", "fcos*", "raft*", "quantized_*", "swin*", "vit_*", "mvit*")


@dataclass(frozen=True)
class Row:
    """One model's result. `oracle` is None where the oracle could not run; `blocks` differ where the two disagree.

    `widths` are the distinct (channels, spatial axes) of its sites, `distinct` is the number of their keys.
    """

    name: str
    nodes: int = 0
    residual: int = 0
    mixed: int = 0
    oracle: int | None = None
    extra: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str = ""
    is_cnn: bool = True
    widths: tuple[tuple[int, int], ...] = ()
    distinct: int = 0


def names() -> list[str]:
    """All model names of both zoos that can be CNNs."""
    import timm
    import torchvision

    ours = [n for n in torchvision.models.list_models() if not any(fnmatch.fnmatch(n, p) for p in _NOT_FROM_THE_TOP)]
    return [f"torchvision:{n}" for n in ours] + [f"timm:{n}" for n in timm.list_models()]


def build(name: str) -> nn.Module:
    """The model without weights: on the meta device, or, where its constructor computes with them, on the CPU."""
    import timm
    import torchvision

    library, _, plain = name.partition(":")
    if library == "timm":
        with torch.device("meta"):
            return timm.create_model(plain)
    keywords: dict[str, object] = {"weights": None}
    if any(part in plain for part in ("deeplab", "fcn_", "lraspp")):
        keywords["weights_backbone"] = None
    if plain in ("googlenet", "inception_v3"):
        keywords["init_weights"] = False
    try:
        with torch.device("meta"):
            return torchvision.models.get_model(plain, **keywords)
    except (NotImplementedError, RuntimeError):
        return torchvision.models.get_model(plain, **keywords).to("meta")


def is_cnn(model: nn.Module) -> bool:
    """Whether convolutions are more than a patch embedding: at least a quarter of the layers that have weights."""
    layers = Counter(
        isinstance(m, nn.modules.conv._ConvNd)
        for m in model.modules()
        if isinstance(getattr(m, "weight", None), nn.Parameter) and m.weight.dim() > 1
    )
    return layers[True] > 4 and layers[True] >= layers.total() / 4


def examine(name: str) -> Row:
    """Trace one model, find its sites, ask the oracle."""
    warnings.simplefilter("ignore")
    from attn_inject.sites.reading import read

    start = time.perf_counter()
    model = build(name)
    if not is_cnn(model):
        return Row(name, is_cnn=False)
    try:
        located = read(model)
    except TraceError as error:
        return Row(name, error=str(error), seconds=time.perf_counter() - start)
    seconds = time.perf_counter() - start
    kinds = Counter(site.kind for site in located.sites)
    ours = Counter(site.block for site in located.sites if site.kind == "residual")
    widths = tuple(sorted({(site.channels, len(site.size)) for site in located.sites}))
    found: dict[str, Any] = {
        "nodes": len(located.trace.graphs["eval"].nodes), "residual": kinds["residual"], "mixed": kinds["mixed"],
        "seconds": seconds, "widths": widths, "distinct": len({site.key for site in located.sites}),
    }  # fmt: skip
    try:
        theirs = residual_blocks(model, *located.trace.inputs.values)
    except (RuntimeError, NotImplementedError, IndexError) as error:
        return Row(name, error=f"oracle: {error}", **found)
    extra, missing = (tuple(sorted(each.elements())) for each in (ours - theirs, theirs - ours))
    return Row(name, oracle=theirs.total(), extra=extra, missing=missing, **found)


def sweep(patterns: list[str], workers: int) -> Iterator[Row]:
    """`examine` over all names that match, several at a time."""
    chosen = [
        n
        for n in names()
        if not patterns or any(fnmatch.fnmatch(n, p) or fnmatch.fnmatch(n, f"*:{p}") for p in patterns)
    ]
    os.environ["OMP_NUM_THREADS"] = "1"
    # What is there stays there, in each process too: looking through it for garbage takes time.
    gc.collect()
    gc.freeze()
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        yield from pool.map(examine, chosen, chunksize=4)


def table(rows: list[Row]) -> str:
    """The results as Markdown."""
    import timm
    import torchvision

    lines = [
        "# Sites of every CNN in the two zoos",
        "",
        f"torch {_version(torch)}, torchvision {_version(torchvision)}, timm {_version(timm)}; "
        "made by `python -m tests.zoo.sweep`. The oracle is `tests/zoo/oracle.py`, which uses no `torch.fx`.",
        "",
        "| model | nodes | residual | mixed | oracle | seconds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        oracle = "-" if row.oracle is None else str(row.oracle)
        lines.append(f"| {row.name} | {row.nodes} | {row.residual} | {row.mixed} | {oracle} | {row.seconds:.2f} |")
    return "\n".join(lines) + "\n"


def _version(package: Any) -> str:
    return str(package.__version__).partition("+")[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rows", type=Path, help="where to pickle them, for the tests")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    rows = []
    for row in sweep(arguments.patterns, arguments.workers):
        if not row.is_cnn:
            continue
        rows.append(row)
        if row.error or row.extra or row.missing:
            print(
                row.name,
                row.residual,
                row.oracle,
                row.error[:160],
                "extra",
                row.extra[:3],
                "missing",
                row.missing[:3],
                flush=True,
            )
    print(
        f"{len(rows)} CNNs, {sum(bool(r.error) for r in rows)} errors, "
        f"{sum(bool(r.extra or r.missing) for r in rows)} differences"
    )
    if arguments.rows:
        arguments.rows.write_bytes(pickle.dumps([astuple(row) for row in rows]))
    if arguments.out:
        arguments.out.write_text(table(rows))
    return int(any(row.error for row in rows))


if __name__ == "__main__":
    sys.exit(main())
