"""What attention costs, optimized and not: paired runs, medians of ratios, on whatever device there is.

    python -m tests.bench.optimized [--batch N] [--pairs N] [NAME ...]

The plain network's norms are folded too wherever the attended one's are. On CUDA it runs in bf16 and channels-last.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from attn_inject import inject, optimize
from attn_inject.optimizing import fold_norms

from ..zoo.sweep import build


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


def _ratio(
    first: Callable[[], object], second: Callable[[], object], pairs: int, settle: Callable[[], None]
) -> list[float]:
    """Times of `second` over `first`, measured in turns."""

    def took(run: Callable[[], object]) -> float:
        settle()
        start = time.perf_counter()
        run()
        settle()
        return time.perf_counter() - start

    for _ in range(2):
        first(), second()
    ratios = []
    for turn in range(pairs):
        if turn % 2:
            b, a = took(second), took(first)
        else:
            a, b = took(first), took(second)
        ratios.append(b / a)
    return ratios


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("names", nargs="*", default=["torchvision:resnet50"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=15)
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    settle = torch.cuda.synchronize if cuda else lambda: None
    where = torch.cuda.get_device_name() if cuda else f"{_cpu_name()}, {torch.get_num_threads()} threads"
    version = torch.__version__.partition("+")[0]
    print(f"{where}, torch {version}, {dtype}, batch {arguments.batch}, {arguments.pairs} pairs")
    print("| network | attention | layout | plain, ms | patched / plain | optimized / folded plain |")
    print("|---|---|---|---:|---:|---:|")
    for name in arguments.names:
        for layout in (torch.channels_last,) if cuda else (torch.contiguous_format, torch.channels_last):
            torch.manual_seed(0)
            model: nn.Module = build(name).to_empty(device=device).to(dtype)
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.02)
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.reset_parameters()
            model = model.eval().to(memory_format=layout)
            x = torch.randn(arguments.batch, 3, 224, 224, device=device, dtype=dtype).contiguous(memory_format=layout)
            for attention in ("se", "eca"):
                patched = inject(model, attention).eval()
                fast, folded = optimize(patched), fold_norms(model)
                with torch.no_grad():
                    plain = _ratio(partial(model, x), partial(patched, x), arguments.pairs, settle)
                    best = _ratio(partial(folded, x), partial(fast, x), arguments.pairs, settle)
                    start = time.perf_counter()
                    model(x)
                    settle()
                    base = (time.perf_counter() - start) * 1e3
                words = "channels_last" if layout is torch.channels_last else "NCHW"
                spread = [f"{statistics.median(r):.3f} ({min(r):.2f} to {max(r):.2f})" for r in (plain, best)]
                print(f"| {name} | {attention} | {words} | {base:.0f} | {spread[0]} | {spread[1]} |", flush=True)


if __name__ == "__main__":
    main()
