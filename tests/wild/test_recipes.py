"""The recipes for other people's trainers, as they are called: the loss falls, and the file holds the attention."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import attn_inject
from attn_inject.recipes import FOLDER

from ..before_after import every_gate_runs

pytestmark = pytest.mark.wild

NETS = Path(__file__).parents[1] / "recipes" / "nets.py"


def call(script: str, out: Path, *more: str) -> str:
    words = [
        str(FOLDER / script),
        f"{NETS}:batch_normed",
        "-a",
        "se:reduction=4",
        "--data",
        "digits",
        "--out",
        str(out),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(
        [sys.executable, *words, *more], capture_output=True, text=True, timeout=600, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_accelerate(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    losses = re.findall(r"loss ([0-9.]+)", call("with_accelerate.py", tmp_path, "--epochs", "3"))
    assert len(losses) == 3
    assert float(losses[-1]) < 0.7 * float(losses[0])
    trained = attn_inject.load(tmp_path / "model.pt", form="module", trust_source=True)
    every_gate_runs(trained, torch.randn(2, 3, 32, 32))
    assert len(list(attn_inject.attention_parameters(trained))) == 4


def test_lightning(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    call("with_lightning.py", tmp_path, "--attention-epochs", "1", "--epochs", "0")
    frozen = attn_inject.load(tmp_path / "model.pt", form="module", trust_source=True)
    call("with_lightning.py", tmp_path / "more", "--attention-epochs", "1", "--epochs", "1")
    moved = attn_inject.load(tmp_path / "more" / "model.pt", form="module", trust_source=True)
    every_gate_runs(moved, torch.randn(2, 3, 32, 32))
    # Of the first epoch alone: all that is not attention is what it was when it was built.
    assert int(frozen.stem[1].num_batches_tracked) == 0
    assert int(moved.stem[1].num_batches_tracked) > 0
    assert len(list(attn_inject.attention_parameters(moved))) == 4
