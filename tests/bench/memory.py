"""What a training step keeps for the backward pass, as a Markdown table: `python -m tests.bench.memory`.

Counted on the meta device (`attn_inject.cost.kept`), so that any machine gives the same bytes: 224x224, float32, train
mode, in MB of 10^6 bytes for a batch of four, inputs included, parameters and buffers not. Twin: timm's own network
with the attention, over timm's own without it. With `--autocast` forward passes in bfloat16 are run on the CPU and
counted, since the meta device has no autocast; with `--compile` what `torch.compile` makes is. With `--peak` it is the
most that a real training step (SGD with momentum, the third) holds on the CPU beyond what it found: activations, the
gradients of weights, and what the operations need on the way.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import accumulate

import timm
import torch
import torchvision
from torch import nn
from torch.profiler import ProfilerActivity, profile

from attn_inject import inject, optimize_training
from attn_inject.cost.kept import kept_for_backward
from attn_inject.tracing.inputs import Inputs

from .speed import step

NETWORKS = (
    "torchvision:resnet50",
    "torchvision:resnet18",
    "torchvision:mobilenet_v2",
    "torchvision:convnext_tiny",
    "timm:convnext_tiny",
    "timm:regnetx_032",
)
# (network, attention): timm's own network with the attention, and the one that is the same without it.
TWINS = {
    ("torchvision:resnet50", "se"): ("seresnet50", "resnet50"),
    ("torchvision:resnet18", "se"): ("seresnet18", "resnet18"),
    ("torchvision:resnet50", "eca"): ("ecaresnet50d", "resnet50d"),
}


def _made(name: str) -> nn.Module:
    home, _, model = name.rpartition(":")
    made: nn.Module = torchvision.models.get_model(model) if home == "torchvision" else timm.create_model(model)
    return made


def _kept(model: nn.Module, batch: int, size: int) -> int:
    return kept_for_backward(model, Inputs((torch.empty(batch, 3, size, size, device="meta"),)), batch).kept


def kept_by(step: Callable[[torch.Tensor], object], model: nn.Module, x: torch.Tensor) -> int:
    """Bytes that autograd keeps of a forward pass on the CPU, beside parameters and buffers."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    # The tensors stay alive, or one storage could take the address of another.
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = step(x)
    del out
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


def kept_under_autocast(model: nn.Module, x: torch.Tensor) -> int:
    """`kept_by` a forward pass in bfloat16."""
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        return kept_by(model, model, x)


def kept_compiled(model: nn.Module, x: torch.Tensor) -> int:
    """`kept_by` what `torch.compile` makes: its choice of what to keep and what to work out again, without kernels."""
    torch._dynamo.reset()
    compiled = torch.compile(model.train(), backend="aot_eager_decomp_partition")
    compiled(x)
    return kept_by(compiled, model, x)


def peak_of_step(model: nn.Module, x: torch.Tensor) -> int:
    """The most bytes that a training step has allocated at a time, of all that it allocates."""
    run = step(model.train(), x)
    run(), run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    assert seen.profiler is not None
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    real = parser.add_mutually_exclusive_group()
    real.add_argument("--autocast", dest="kept", action="store_const", const=kept_under_autocast)
    real.add_argument("--compile", dest="kept", action="store_const", const=kept_compiled)
    real.add_argument("--peak", dest="kept", action="store_const", const=peak_of_step)
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    given = parser.parse_args()
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}\n")
    print(
        "| network | attention | plain, MB | patched, MB | optimized, MB | patched / plain | optimized / plain | twin |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    torch.manual_seed(0)
    for name in given.networks:
        for attention in ("se", "eca"):
            with torch.device("cpu" if given.kept else "meta"):
                model = _made(name)
                twins = [_made(twin) for twin in TWINS.get((name, attention), ())]
                x = torch.randn(given.batch, 3, given.size, given.size)
            patched = inject(model, attention)
            counted = [
                given.kept(m, x) if given.kept else _kept(m, given.batch, given.size)
                for m in (model, patched, optimize_training(patched), *twins)
            ]
            plain, before, after = counted[:3]
            twin = f"{counted[3] / counted[4]:.3f}" if twins else ""
            sizes = " | ".join(f"{bytes_ / 1e6:.1f}" for bytes_ in (plain, before, after))
            print(
                f"| {name} | {attention} | {sizes} | {before / plain:.3f} | {after / plain:.4f} | {twin} |", flush=True
            )


if __name__ == "__main__":
    main()
