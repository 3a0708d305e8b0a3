"""All that a GPU has to show, in one call of less than ten minutes, as Markdown: kernels, time, memory, the report.

    python -m tests.bench.gpu [--out FILE.md] [--seconds 540] [--batch 256] [--pairs 15]

The kernels are held against plain torch first. A part that finds no time left is named as not measured; a part that
fails is named with its error, and the others go on. It needs torch, torchvision, timm and Triton alone. `--rehearse`
runs every part on a CPU with small images, and with TRITON_INTERPRET=1 the kernels in Triton's interpreter, to see that
the script works before there is a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn
from torch.utils.benchmark import Timer

from attn_inject import inject, optimize, report
from attn_inject.optimizing.training import optimize_training

from ..optimizing import triton_check
from . import speed


def kernels() -> None:
    """The kernels over dtypes, layouts and odd sizes; empty batches; more elements than 32 bits count."""
    from attn_inject.optimizing import triton_kernels

    if not speed.CUDA and not os.environ.get("TRITON_INTERPRET"):
        print("The kernels run on CUDA, or in Triton's interpreter: TRITON_INTERPRET=1.")
        return
    with torch.device(speed.DEVICE):
        checked = triton_check.check_gate_add(), triton_check.check_two_layers()
        print(f"{checked[0]} cases of gate and add, {checked[1]} of two layers: equal within rounding.")
        if speed.CUDA:
            empty = torch.empty(0, 64, 7, 7)
            gate = {"hard": False, "scale": 1.0, "relu": True, "channels_last": False}
            assert triton_kernels.gate_add(empty, torch.empty(0, 64), empty, **gate) is empty
            large = torch.ones(2200, 64, 128, 128, dtype=torch.float16)  # 2.3e9 elements
            triton_kernels.gate_add(large, torch.zeros(2200, 64, dtype=torch.float16), large.clone(), **gate)
            assert bool((large[-1] == 1.5).all())
            print("An empty batch, and a map of 2.3e9 elements: right.")


def networks() -> None:
    """Optimized networks against patched ones, in each type and layout."""
    print("| network | dtype | layout | largest difference, relative |\n|---|---|---|---:|")
    for name in ("resnet18", "resnet50", "mobilenet_v2"):
        torch.manual_seed(0)
        patched = inject(torchvision.models.get_model(name), "se", min_width=1, input_size=64).eval()
        fast = optimize(patched)
        for dtype in (torch.float32, torch.bfloat16, torch.float16) if speed.CUDA else (torch.float32,):
            for label, layout in {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}.items():
                x = torch.randn(4, 3, 64, 64).to(speed.DEVICE, dtype).contiguous(memory_format=layout)
                with torch.no_grad():
                    ours, theirs = (
                        m.to(speed.DEVICE, dtype).to(memory_format=layout)(x).float() for m in (fast, patched)
                    )
                apart = float((ours - theirs).abs().max() / theirs.abs().max())
                print(f"| {name} | {str(dtype).removeprefix('torch.')} | {label} | {apart:.1e} |", flush=True)
                patched, fast = patched.float(), fast.float()


def layers() -> None:
    """A gate's two layers: one kernel over the three of plain torch, which is where the kernels' tiles are tuned."""
    if not speed.CUDA:
        print("Kernels are timed on CUDA only.")
        return
    from attn_inject.optimizing import triton_kernels

    print("| channels | images | plain, us | kernel / plain |\n|---:|---:|---:|---:|")
    for channels in (256, 512, 1024, 2048):
        w1, w2 = torch.randn(channels // 16, channels), torch.randn(channels, channels // 16)
        b1, b2 = torch.zeros(channels // 16), torch.zeros(channels)
        weights = [t.to(speed.DEVICE, speed.DTYPE) for t in (w1, b1, w2, b2)]
        for images in (1, 8, 16, 32, 64, 256):
            given = {"x": torch.randn(images, channels).to(speed.DEVICE, speed.DTYPE), "w": weights}
            plain, ours = (
                Timer(code, globals={**given, "F": nn.functional, "kernel": triton_kernels.two_layers})
                .blocked_autorange(min_run_time=0.2)
                .median
                for code in ("F.linear(F.linear(x, *w[:2]).relu(), *w[2:])", "kernel(x, *w, silu=False)")
            )
            print(f"| {channels} | {images} | {plain * 1e6:.1f} | {ours / plain:.2f} |", flush=True)


def memory(batch: int) -> None:
    """Peak memory of a training step (SGD with momentum), after two steps."""
    if not speed.CUDA:
        print("Peak memory is read on CUDA only.")
        return
    print("| network | attention | plain, MB | patched / plain | optimize_training / plain |\n|---|---|---:|---:|---:|")
    for name in ("torchvision:resnet50", "timm:regnetx_032"):
        for attention in ("se", "eca"):
            peaks = []
            plain = speed.build(name)
            patched = inject(plain, attention)
            for model in (plain, patched, optimize_training(patched)):
                ready = speed.placed(model, torch.channels_last).train()
                run = speed.step(ready, speed.images(batch, torch.channels_last))
                run(), run()
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                run()
                torch.cuda.synchronize()
                peaks.append(torch.cuda.max_memory_allocated())
                del ready, run
                torch.cuda.empty_cache()
            ratios = " | ".join(f"{peak / peaks[0]:.3f}" for peak in peaks[1:])
            print(f"| {name} | {attention} | {peaks[0] / 1e6:.0f} | {ratios} |", flush=True)


def reported(network: str) -> None:
    """The report as a user sees it, with the training step, compiled and in bfloat16 too."""
    for more in ({}, {"training": True}, {"dtype": "bfloat16", "channels_last": True}, {"compile": True}):
        torch.manual_seed(0)
        model: nn.Module = torchvision.models.get_model(network)
        print(f"#### {', '.join(f'{key}={value}' for key, value in more.items()) or 'as it is'}\n\n```")
        size = {} if speed.CUDA else {"input_size": (3, 64, 64)}
        made = report(model, inject(model, "eca"), device=speed.DEVICE, bench_seconds=3.0, **size, **more)
        print(made if importlib.util.find_spec("rich") else made.to_markdown())
        print("```\n", flush=True)


def main() -> int:
    warnings.simplefilter("ignore")
    torch.backends.cudnn.benchmark = True
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--rehearse", action="store_true")
    given = parser.parse_args()
    if not speed.CUDA and not given.rehearse:
        print("there is no GPU here: --rehearse runs the parts on a CPU", file=sys.stderr)
        return 2
    if not speed.CUDA:
        speed.SIZE = 64
    large = "resnet50" if speed.CUDA else "resnet18"
    main_pairs = [(f"torchvision:{large}", attention) for attention in ("se", "eca")]
    twins = [(name, attention) for attention, (name, _) in speed.TWINS.items()] if speed.CUDA else []
    batch, pairs = given.batch, given.pairs
    parts: dict[str, Callable[[], None]] = {
        "Kernels": kernels,
        "Optimized against patched": networks,
        "Two layers in one kernel": layers,
        "Inference, eager": lambda: speed.inference(main_pairs + twins, batch, pairs, compiled=False),
        "Batch 1 under CUDA graphs": lambda: speed.graphs(pairs) if speed.CUDA else print("on CUDA only"),
        "Training step": lambda: speed.training(main_pairs + twins, batch, pairs, compiled=False),
        "Peak memory of a training step": lambda: memory(batch),
        "The report": lambda: reported(large),
        "Inference, compiled": lambda: speed.inference(main_pairs + twins, batch, pairs, compiled=True),
        "Other networks": lambda: speed.inference([(n, "se") for n in speed.OTHERS], batch, pairs, compiled=False),
    }
    began, failed = time.monotonic(), False
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}"
    text = [f"# {speed.machine()}, {versions}, {str(speed.DTYPE).removeprefix('torch.')}\n"]
    for title, part in parts.items():
        left = given.seconds - (time.monotonic() - began)
        written = io.StringIO()
        with contextlib.redirect_stdout(written):
            try:
                part() if left > 0 else print("not measured: no time was left")
            except Exception:
                failed = True
                print(f"```\n{traceback.format_exc()}```")
        text.append(f"## {title}\n\n{written.getvalue().strip()}\n")
        print(text[-1], flush=True)
        if given.out:
            given.out.write_text("\n".join(text))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
