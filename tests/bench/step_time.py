"""Training steps of a network as it is, patched and optimized, in turns: `python -m tests.bench.step_time NETWORK ...`.

By the process's own clock, with one thread, so that what else runs on the machine counts less than by the clock on the
wall. Each round runs all three, beginning with another each time; a ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch
import torchvision
from torch import nn

from attn_inject import inject, optimize_training

_LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def _step(model: nn.Module, x: torch.Tensor) -> float:
    model.zero_grad()
    begin = time.process_time()
    model(x).mean().backward()
    return time.process_time() - begin


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+", help="torchvision's names")
    parser.add_argument("--attention", default="se")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | attention | layout | plain, ms | patched / plain | optimize_training / plain |")
    print("|---|---|---|---:|---:|---:|")
    for name in given.networks:
        for layout, memory_format in _LAYOUTS.items():
            model = torchvision.models.get_model(name)
            patched = inject(model, given.attention, copy=True)
            models = [model, patched, optimize_training(copy.deepcopy(patched))]
            models = [each.train().to(memory_format=memory_format) for each in models]
            x = torch.randn(given.batch, 3, 224, 224).contiguous(memory_format=memory_format)
            for each in models:
                _step(each, x)
            times: list[list[float]] = [[], [], []]
            for turn in range(given.rounds):
                for index in range(3):
                    which = (index + turn) % 3
                    times[which].append(_step(models[which], x))
            plain = times[0]
            ratios = (
                [after / before for before, after in zip(plain, each, strict=True)] for each in (times[1], times[2])
            )
            shown = [f"{statistics.median(r):.3f} ({min(r):.2f} to {max(r):.2f})" for r in ratios]
            print(
                f"| {name} | {given.attention} | {layout} | {1e3 * statistics.median(plain):.0f} | "
                f"{' | '.join(shown)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
