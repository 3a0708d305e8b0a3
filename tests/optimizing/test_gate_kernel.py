"""The Triton kernels without a GPU: run by Triton's interpreter, and compiled for one that is not here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

HERE = Path(__file__).parent


def test_the_kernels_give_what_plain_torch_gives() -> None:
    """In a process of its own: the interpreter is chosen when Triton is imported."""
    ran = subprocess.run(
        [sys.executable, HERE / "triton_check.py"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["checked", "96", "36", "2"]


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_the_kernels_compile_for_a_gpu(dtype: str) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as build

    from attn_inject.optimizing import triton_kernels

    hopper = GPUTarget("cuda", 90, 32)
    for last in (True, False):
        maps = dict.fromkeys(("branch", "logits", "shortcut"), f"*{dtype}")
        fixed = {"CHANNELS": 256, "POSITIONS": 3136, "HARD": False, "RELU": True, "LAST": last, "BLOCK": 1024}
        signature = {**maps, "scale": "fp32", **dict.fromkeys(fixed, "constexpr")}
        source = ASTSource(triton_kernels._gate_add_kernel, signature=signature, constexprs=fixed)
        assert build(source, target=hopper).asm["cubin"]
    tensors = dict.fromkeys(("pooled", "w1", "b1", "w2", "b2", "out"), f"*{dtype}")
    sizes = dict.fromkeys(("inputs", "hidden", "channels"), "i32")
    fixed = {"SILU": False, "BIAS2": True, "BC": 64, "BH": 32, "BK": 64}
    signature = {**tensors, **sizes, **dict.fromkeys(fixed, "constexpr")}
    source = ASTSource(triton_kernels._two_layers_kernel, signature=signature, constexprs=fixed)
    assert build(source, target=hopper).asm["cubin"]
