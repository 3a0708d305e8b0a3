"""What attention costs, optimized and not, on whatever device there is: paired runs, medians of ratios, as tables.

    python -m tests.bench.speed [--only inference,compiled,graphs,others,training] [--batch N] [--pairs N]

On CUDA it runs in bf16 and channels-last at batch 256, and all tables take less than ten minutes; on a CPU in float32
at batch 16, in both layouts. Networks have random weights; norms of the plain network are folded too wherever those of
the attended one are. The twins are timm's own attended networks.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn

from attn_inject import inject, optimize
from attn_inject.cost.counting import count
from attn_inject.optimizing.optimized import fold_norms
from attn_inject.optimizing.training import optimize_training

CUDA = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.bfloat16) if CUDA else ("cpu", torch.float32)
TWINS = {"se": ("timm:resnet50", "seresnet50"), "eca": ("timm:resnet50d", "ecaresnet50d")}
OTHERS = ("torchvision:mobilenet_v2", "torchvision:resnext50_32x4d", "timm:regnetx_032", "torchvision:resnet18")
SIZE = 224
LAYOUTS = {"channels_last": torch.channels_last} | ({} if CUDA else {"NCHW": torch.contiguous_format})

Runs = Mapping[str, Callable[[], object]]


def machine() -> str:
    if CUDA:
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {torch.get_num_threads()} threads"


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    library, _, short = name.partition(":")
    model = timm.create_model(short) if library == "timm" else torchvision.models.get_model(short)
    return model.eval()


def placed(model: nn.Module, layout: torch.memory_format) -> nn.Module:
    """A copy on the device, in its type and layout."""
    return copy.deepcopy(model).to(DEVICE, DTYPE).to(memory_format=layout)


def images(batch: int, layout: torch.memory_format) -> torch.Tensor:
    return torch.randn(batch, 3, SIZE, SIZE, device=DEVICE, dtype=DTYPE).contiguous(memory_format=layout)


def seconds(run: Callable[[], object]) -> float:
    if CUDA:
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def race(runs: Runs, pairs: int) -> dict[str, list[float]]:
    """The times of each, measured in turns; the order goes forth and back."""
    for run in runs.values():
        run(), run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(pairs):
        for name in list(runs)[:: -1 if turn % 2 else 1]:
            times[name].append(seconds(runs[name]))
    return times


def ratio(times: dict[str, list[float]], first: str, second: str) -> str:
    """`second` over `first`: the median of the pairs' ratios, and the smallest and largest."""
    if first not in times or second not in times:
        return ""
    ratios = [b / a for a, b in zip(times[first], times[second], strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})"


def milliseconds(times: dict[str, list[float]], name: str) -> str:
    return f"{statistics.median(times[name]) * 1e3:.1f}"


def forward(model: Callable[..., torch.Tensor], x: torch.Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return model(x)

    return run


def step(model: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def run() -> None:
        model(x).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def traffic(plain: nn.Module, fast: nn.Module, patched: nn.Module, batch: int) -> str:
    """What the optimized graph moves beyond the folded plain one, in bytes of the gated maps, counted."""
    x = torch.empty(batch, 3, SIZE, SIZE, device="meta")
    moved = [(c := count(model, (x,)).total).bytes_read + c.bytes_written for model in (plain, fast)]
    maps = sum(i.site.channels * i.site.size[0] * i.site.size[1] for i in patched.injection.plan.insertions)
    return f"{(moved[1] - moved[0]) / (maps * batch * 4):+.2f}"


def header(*columns: str) -> None:
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * 3 + "---:|" * (len(columns) - 3), flush=True)


def row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def contestants(name: str, attention: str) -> Iterator[tuple[str, nn.Module]]:
    model = build(name)
    patched = inject(model, attention, **({"min_width": 1} if attention == "se" else {})).eval()
    yield "plain", model
    yield "patched", patched
    yield "folded", fold_norms(model)
    yield "optimized", optimize(patched)
    if TWINS[attention][0] == name:
        yield "twin", timm.create_model(TWINS[attention][1]).eval()


def inference(names: list[tuple[str, str]], batch: int, pairs: int, *, compiled: bool) -> None:
    mode = "compiled" if compiled else "eager"
    print(f"\n### Inference, {mode}, batch {batch}\n")
    header("network", "attention", "layout", "plain, ms", "optimized / folded plain", "extra traffic, T",
           "patched / plain", "patched / twin")  # fmt: skip
    for name, attention in names:
        models = dict(contestants(name, attention))
        extra = traffic(models["folded"], models["optimized"], models["patched"], batch)
        for label, layout in LAYOUTS.items():
            x = images(batch, layout)
            runs = {}
            for who, model in models.items():
                ready = placed(model, layout)
                runs[who] = forward(torch.compile(ready) if compiled else ready, x)
            times = race(runs, pairs)
            row(
                name, attention, label, milliseconds(times, "plain"), ratio(times, "folded", "optimized"),
                "" if compiled else extra, ratio(times, "plain", "patched"), ratio(times, "twin", "patched"),
            )  # fmt: skip
            torch.compiler.reset()


def graphs(pairs: int) -> None:
    """Batch 1 under CUDA graphs, where only the kernels count."""
    print("\n### Inference, batch 1, CUDA graphs\n")
    header("network", "attention", "layout", "folded plain, ms", "optimized / folded plain", "extra kernels a site")
    for attention in TWINS:
        name = "torchvision:resnet50"
        models = dict(contestants(name, attention))
        x = images(1, torch.channels_last)
        runs, kernels = {}, {}
        for who in ("folded", "optimized"):
            run = forward(placed(models[who], torch.channels_last), x)
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                for _ in range(3):
                    run()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                run()
            runs[who] = graph.replay
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
                run()
                torch.cuda.synchronize()
            kernels[who] = sum(event.count for event in seen.key_averages() if not event.key.startswith("Mem"))
        times = race(runs, max(pairs, 50))
        sites = len(models["patched"].injection.plan.insertions)
        extra = (kernels["optimized"] - kernels["folded"]) / sites
        row(name, attention, "channels_last", milliseconds(times, "folded"), ratio(times, "folded", "optimized"),
            f"{extra:.1f}")  # fmt: skip


def training(names: list[tuple[str, str]], batch: int, pairs: int, *, compiled: bool) -> None:
    print(f"\n### Training step (SGD), {'compiled' if compiled else 'eager'}, batch {batch}\n")
    header("network", "attention", "layout", "plain, ms", "optimize_training / plain", "patched / plain",
           "patched / twin")  # fmt: skip
    for name, attention in names:
        model = build(name)
        patched = inject(model, attention, **({"min_width": 1} if attention == "se" else {}))
        models = {"plain": model, "patched": patched, "fast": patched}
        if TWINS[attention][0] == name:
            models["twin"] = timm.create_model(TWINS[attention][1])
        for label, layout in LAYOUTS.items():
            x = images(batch, layout)
            runs = {}
            for who, source in models.items():
                ready = placed(source, layout).train()
                ready = optimize_training(ready) if who == "fast" else ready
                runs[who] = step(torch.compile(ready) if compiled else ready, x)
            times = race(runs, pairs)
            row(name, attention, label, milliseconds(times, "plain"), ratio(times, "plain", "fast"),
                ratio(times, "plain", "patched"), ratio(times, "twin", "patched"))  # fmt: skip
            torch.compiler.reset()


def main() -> None:
    warnings.simplefilter("ignore")
    torch.backends.cudnn.benchmark = True
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="inference,compiled,graphs,others,training")
    parser.add_argument("--batch", type=int, default=256 if CUDA else 16)
    parser.add_argument("--pairs", type=int, default=40 if CUDA else 9)
    given = parser.parse_args()
    wanted = given.only.split(",")
    version = f"torch {torch.__version__.partition('+')[0]}, torchvision {torchvision.__version__.partition('+')[0]}"
    print(f"{machine()}, {version}, timm {timm.__version__}, {DTYPE}, {given.pairs} pairs")
    main_pairs = [("torchvision:resnet50", "se"), ("torchvision:resnet50", "eca")]
    with_twins = [(name, attention) for attention, (name, _) in TWINS.items()]
    if "inference" in wanted:
        inference(main_pairs + with_twins, given.batch, given.pairs, compiled=False)
    if "compiled" in wanted:
        inference(main_pairs + with_twins, given.batch, given.pairs, compiled=True)
    if "graphs" in wanted and CUDA:
        graphs(given.pairs)
    if "others" in wanted:
        inference([(name, "se") for name in OTHERS], given.batch, given.pairs, compiled=False)
    if "training" in wanted:
        batch = given.batch if CUDA else max(given.batch // 2, 2)
        training(main_pairs + with_twins, batch, given.pairs, compiled=False)
        if CUDA:
            training(with_twins, batch, given.pairs, compiled=True)


if __name__ == "__main__":
    main()
