"""What `inject` takes on resnet50, after imports and model building: process time, and memory beyond the model.

    python -m tests.bench.injecting [NAME ...]

Each row is a process of its own, in which a small network goes first, so that imports and libraries' own workspaces
are not counted. Linux only: the peak of the resident memory is reset and read through /proc.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import timm
import torch
import torchvision
from torch import nn

from attn_inject import find_sites, inject


def megabytes(field: str) -> float:
    """A line of /proc/self/status in MB: VmRSS is what is held now, VmHWM the most since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024 / 1e6


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def build(name: str) -> nn.Module:
    library, _, short = name.partition(":")
    return timm.create_model(short) if library == "timm" else torchvision.models.get_model(short)


def measure(name: str, attention: str) -> str:
    inject(torchvision.models.resnet18(), "eca")
    model = build(name)
    held = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())) / 1e6
    times, memory = [], []
    for _ in range(4):
        gc.collect()
        before = megabytes("VmRSS")
        reset_peak()
        start = time.process_time()
        patched = inject(model, attention)
        times.append(time.process_time() - start)
        added = sum(p.numel() * p.element_size() for n, p in patched.named_parameters() if f".{attention}." in n) / 1e6
        memory.append(megabytes("VmHWM") - before - added)
        del patched
    return f"| {name} | {attention} | {held:.0f} | {min(times):.2f} | {memory[0]:.1f} |"


def larger_than_memory() -> str:
    """Sites of a network whose weights would take terabytes, planned on the meta device."""
    inject(torchvision.models.resnet18(), "eca")
    with torch.device("meta"):
        model = torchvision.models.resnet152(width_per_group=64 * 128)
    size = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())) / 1e12
    gc.collect()
    before = megabytes("VmRSS")
    reset_peak()
    start = time.process_time()
    sites = len(find_sites(model))
    inject(model, "eca")
    took = time.process_time() - start
    return f"{size:.1f} TB of weights: {sites} sites and inject in {took:.2f} s, {megabytes('VmHWM') - before:.1f} MB"


def alone(function: Callable[..., str], *arguments: str) -> str:
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(function, arguments)


def main() -> None:
    warnings.simplefilter("ignore")
    print(
        f"1 thread, torch {torch.__version__.partition('+')[0]}; process time, best of four; memory of the first call"
    )
    print("| model | attention | model, MB | inject, s | memory beyond model and attention, MB |")
    print("|---|---|---:|---:|---:|")
    for name in sys.argv[1:] or ("torchvision:resnet18", "torchvision:resnet50", "torchvision:resnet152"):
        for attention in ("se", "eca"):
            print(alone(measure, name, attention), flush=True)
    print(alone(larger_than_memory))


if __name__ == "__main__":
    main()
