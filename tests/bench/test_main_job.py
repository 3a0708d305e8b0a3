"""The main job against the least that could do it: whole processes, run in pairs."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

PAIRS = 7
BARE = "import torch, torchvision; torch.save(torchvision.models.resnet50().state_dict(), 'bare.pt')"
JOB = [
    "-c",
    "from attn_inject.cli.main import main; main()",
    *["resnet50", "--attention", "eca", "--out", "model.pt", "--no-bench", "--force"],
]


def seconds(arguments: list[str], folder: Path) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL, env=os.environ)
    return time.perf_counter() - start


@pytest.mark.bench
def test_the_main_job_takes_hardly_longer_than_building_and_saving(tmp_path: Path) -> None:
    seconds(JOB, tmp_path), seconds(["-c", BARE], tmp_path)  # caches of files and names
    bare, ratios = ["-c", BARE], []
    for turn in range(PAIRS):
        if turn % 2:
            job_took, bare_took = seconds(JOB, tmp_path), seconds(bare, tmp_path)
        else:
            bare_took, job_took = seconds(bare, tmp_path), seconds(JOB, tmp_path)
        ratios.append(job_took / bare_took)
    print(f"\nmain job over bare script: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    assert statistics.median(ratios) <= 1.15


@pytest.mark.bench
@pytest.mark.parametrize("arguments", ["--help", "models", "attentions", "recipes"])
def test_quick_commands_answer_in_under_a_third_of_a_second(arguments: str, tmp_path: Path) -> None:
    command = [*JOB[:2], arguments]
    seconds(command, tmp_path)
    times = [seconds(command, tmp_path) for _ in range(PAIRS)]
    print(f"\nattn-inject {arguments}: {statistics.median(times):.2f} s")
    assert statistics.median(times) <= 0.3
