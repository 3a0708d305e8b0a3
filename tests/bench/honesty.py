"""How often a report claims a difference that is not there, or misses one that is.

    python -m tests.bench.honesty [--runs 20] [--seconds 3] [--hogs 1]

A model against itself: no ratio may be resolved, but for the few that 95 % allow. Once alone, once beside processes
that do nothing but keep cores busy. And against itself with a sleep of 5 % in a gate: on a quiet machine all are to be
resolved. Prints a row each, in Markdown.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from attn_inject import InjectedModule, inject
from attn_inject.cost.device import pick, threads
from attn_inject.reporting.data import Speed
from attn_inject.reporting.settings import ReportSettings
from attn_inject.reporting.speed import bench_settings, measure_side_by_side
from attn_inject.tracing.inputs import image
from attn_inject.zoo.cifar import models


def slower(model: InjectedModule, seconds: float) -> nn.Module:
    """The same model, with a sleep in its first gate."""
    made = copy.deepcopy(model)
    gate = made.get_submodule(made.injection.plan.insertions[0].module)
    gate.register_forward_pre_hook(lambda *_: time.sleep(seconds))
    return made


def _spin() -> None:
    while True:
        pass


@contextmanager
def hogged(number: int) -> Iterator[None]:
    """So many processes that keep a core busy each."""
    hogs = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(number)]
    for hog in hogs:
        hog.start()
    try:
        yield
    finally:
        for hog in hogs:
            hog.terminate()


def row(name: str, speeds: list[Speed]) -> str:
    resolved = sum(speed.resolved for speed in speeds)
    ratios = sorted(speed.ratio for speed in speeds)
    pairs = sorted(speed.pairs for speed in speeds)
    busy = sum(speed.contended for speed in speeds)
    return (
        f"| {name} | {len(speeds)} | {resolved} | {ratios[0]:.3f} to {ratios[-1]:.3f} "
        f"| {pairs[0]} to {pairs[-1]} | {busy} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--hogs", type=int, default=1)
    asked = parser.parse_args()
    model = inject(models()["resnet20"](), "se").eval()
    given = image(3, 32, 32)

    def race(other: nn.Module, number: int | None) -> Speed:
        settings = bench_settings(ReportSettings(bench_seconds=asked.seconds, device="cpu", batch=16, threads=number))
        return measure_side_by_side([model, other], given, settings)[0]

    print(f"{pick('cpu').name}, torch {torch.__version__}, {asked.seconds:g} s each\n")
    print("| what | runs | resolved | ratios | pairs | busy machine noticed |")
    print("|---|---:|---:|---|---|---:|")
    cores = torch.get_num_threads()
    for number in dict.fromkeys((1, cores)):
        used = f"{number} thread{'s' if number > 1 else ''}"
        print(row(f"against itself, {used}", [race(model, number) for _ in range(asked.runs)]))
        with hogged(asked.hogs):
            print(row(f"the same beside {asked.hogs} hog", [race(model, number) for _ in range(asked.runs)]))
    with threads(1):
        took = race(model, 1).before.median
        slow = slower(model, 0.05 * took)
        print(row("5 % slower, 1 thread", [race(slow, 1) for _ in range(asked.runs)]))


if __name__ == "__main__":
    main()
