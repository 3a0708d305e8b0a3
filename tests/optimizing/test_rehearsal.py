"""The script that measures everything on a GPU, gone through on a CPU, with no package that a bare machine lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What the library, its command line and its tests need beside torch, torchvision, timm and Triton.
ABSENT = (
    "rich",
    "typer",
    "click",
    "jinja2",
    "markupsafe",
    "matplotlib",
    "platformdirs",
    "shellingham",
    "onnx",
    "pytest",
)
PARTS = ("Kernels", "Optimized against patched", "Inference, eager", "Training step", "The report")


@pytest.mark.zoo
def test_every_part_of_the_gpu_script_runs(tmp_path: Path) -> None:
    out = tmp_path / "gpu.md"
    # The parts named above come first; what compiles is left out when the time is over.
    script = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT!r}))
sys.argv = ["gpu", "--rehearse", "--batch", "1", "--pairs", "1", "--seconds", "60", "--out", {str(out)!r}]
runpy.run_module("tests.bench.gpu", run_name="__main__")
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    text = out.read_text()
    for title in PARTS:
        assert f"## {title}\n" in text
        assert f"## {title}\n\nnot measured: no time" not in text
    assert "120 cases of gate and add, 72 of two layers: equal within rounding." in text
    assert "| activation bytes |" in text
