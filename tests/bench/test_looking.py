"""What one look at the gates costs: paired with the forward passes that it needs, and its memory, on a ResNet-50."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import pytest
import torch
import torchvision

from attn_inject import gates, inject

PAIRS = 7
MEMORY = """
import torch, torchvision
from attn_inject import gates, inject
import attn_inject.studying.study
from tests.bench.injecting import megabytes
torch.manual_seed(0)
patched = inject(torchvision.models.resnet50(), "se").eval()
x = torch.randn(8, 3, 224, 224)
data = [(x, torch.randint(0, 1000, (8,))) for _ in range(10)]
with torch.no_grad():
    for _ in range(5):
        patched(x)
before = megabytes("VmHWM")
gates(patched, data, ablation=False)
print(megabytes("VmHWM") - before)
"""


@pytest.mark.bench
@pytest.mark.parametrize("attention", ["se", "eca"])
def test_one_look_takes_hardly_longer_than_its_forward_passes(attention: str) -> None:
    torch.manual_seed(0)
    patched = inject(torchvision.models.resnet50(), attention).eval()
    data = [(torch.randn(4, 3, 224, 224), torch.randint(0, 1000, (4,))) for _ in range(4)]

    def forward() -> None:
        with torch.no_grad():
            for x, _ in data:
                patched(x)

    def look() -> None:
        gates(patched, data, ablation=False)

    def seconds(run: object) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    seconds(forward), seconds(look)
    ratios = []
    for turn in range(PAIRS):
        first, second = (look, forward) if turn % 2 else (forward, look)
        took = {first: seconds(first), second: seconds(second)}
        ratios.append(took[look] / took[forward])
    print(
        f"\ngates over forward, {attention}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )
    assert statistics.median(ratios) <= 1.2


@pytest.mark.bench
def test_one_look_needs_little_memory_beyond_the_model() -> None:
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    print(f"\nmemory of gates beyond forward passes: {float(run.stdout):.1f} MB")
    assert float(run.stdout) < 50
