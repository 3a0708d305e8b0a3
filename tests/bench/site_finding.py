"""Time to read a network (trace both modes, shapes, sites) and to inject, against its number of graph nodes.

    python -m tests.bench.site_finding [NAME ...]

Process time, best of three, one thread. Linear means: microseconds per node do not grow with the number of nodes.
"""

from __future__ import annotations

import os
import platform
import sys
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from attn_inject.sites.reading import read
from attn_inject.sites.select import locate
from attn_inject.types import DEFAULT_KINDS

from ..zoo.sweep import build

NAMES = (
    "torchvision:resnet18", "torchvision:resnet50", "torchvision:resnet152", "timm:resnet200", "timm:hrnet_w64",
    "timm:resnest269e", "timm:efficientnet_l2", "timm:dm_nfnet_f6", "timm:mobilenetv5_300m",
)  # fmt: skip


def main() -> None:
    warnings.simplefilter("ignore")
    print(f"{platform.processor() or platform.machine()}, 1 thread, torch {torch.__version__.partition('+')[0]}")
    print("| model | nodes | read, ms | sites, ms | sites, us a node |")
    print("|---|---:|---:|---:|---:|")
    for name in sys.argv[1:] or NAMES:
        model = build(name)
        reads, finds = [], []
        for _ in range(3):
            start = time.process_time()
            located = read(model)
            middle = time.process_time()
            locate(located.trace, DEFAULT_KINDS)
            reads.append(middle - start)
            finds.append(time.process_time() - middle)
        nodes = sum(len(graph.nodes) for graph in located.trace.graphs.values())
        find = min(finds)
        print(
            f"| {name} | {nodes} | {min(reads) * 1e3:.0f} | {find * 1e3:.1f} | {find / nodes * 1e6:.1f} |", flush=True
        )


if __name__ == "__main__":
    main()
