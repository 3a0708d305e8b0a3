"""The Triton kernels without a GPU: run by Triton's interpreter, and compiled for one that is not here."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from attn_inject.optimizing import gate_kernel
from attn_inject.optimizing.gate_kernel import cannot_be_built

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

HERE = Path(__file__).parent


@pytest.mark.slow
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
    assert ran.stdout.split() == ["checked", "120", "72", "2"]


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_the_kernels_compile_for_a_gpu(dtype: str) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as build

    from attn_inject.optimizing import triton_kernels

    hopper = GPUTarget("cuda", 90, 32)
    for last in (True, False):
        maps = dict.fromkeys(("branch", "logits", "shortcut"), f"*{dtype}")
        fixed = {
            "CHANNELS": 256,
            "POSITIONS": 3136,
            "TILES": 784,
            "HARD": False,
            "RELU": True,
            "LAST": last,
            "BLOCK": 1024,
        }
        signature = {**maps, "scale": "fp32", **dict.fromkeys(fixed, "constexpr")}
        source = ASTSource(triton_kernels._gate_add_kernel, signature=signature, constexprs=fixed)
        assert build(source, target=hopper).asm["cubin"]
    tensors = dict.fromkeys(("pooled", "w1", "b1", "w2", "b2", "out"), f"*{dtype}")
    sizes = dict.fromkeys(("inputs", "hidden", "channels"), "i32")
    fixed = {"SILU": False, "BIAS1": True, "BIAS2": True, "BC": 64, "BH": 32, "BK": 64}
    signature = {**tensors, **sizes, **dict.fromkeys(fixed, "constexpr")}
    source = ASTSource(triton_kernels._two_layers_kernel, signature=signature, constexprs=fixed)
    assert build(source, target=hopper).asm["cubin"]
    many: dict[str, object] = {**fixed, "PRECISION": "ieee" if dtype == "fp32" else "tf32", "BR": 16, "BC": 128}
    signature = {**tensors, "rows": "i32", **sizes, **dict.fromkeys(many, "constexpr")}
    source = ASTSource(triton_kernels._two_layers_of_many_kernel, signature=signature, constexprs=many)
    assert build(source, target=hopper).asm["cubin"]


def refusals() -> list[Exception]:
    from triton.compiler.errors import CompileTimeAssertionFailure
    from triton.runtime.errors import OutOfResources, PTXASError

    return [
        CompileTimeAssertionFailure(None, None, "no"),
        OutOfResources(300_000, 232_448, "shared memory"),
        PTXASError("fatal"),
        RuntimeError("0 active drivers ([]). There should only be one."),
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable or set triton.knobs"),
        RuntimeError("Cannot find ptxas"),
        RuntimeError("PassManager::run failed"),
        RuntimeError("Triton Error [CUDA]: device kernel image is invalid"),
        subprocess.CalledProcessError(1, ["gcc"]),
        FileNotFoundError("gcc"),
        PermissionError("~/.triton/cache"),
    ]


def accidents() -> list[Exception]:
    from triton.runtime.errors import InterpreterError

    return [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        InterpreterError("TypeError('no')"),
        MemoryError(),
        TypeError("dynamic_func() missing 1 required positional argument"),
        AssertionError(),
    ]


def test_what_the_compiler_refuses_is_told_from_what_happened_to_one_call() -> None:
    assert [error for error in refusals() if not cannot_be_built(error)] == []
    assert [error for error in accidents() if cannot_be_built(error)] == []


class Kernel:
    """A kernel that raises what it is given, and then works."""

    def __init__(self, error: Exception) -> None:
        self.errors, self.calls = [error], 0

    def __call__(self, x: torch.Tensor, *, scale: float) -> torch.Tensor:
        self.calls += 1
        if self.errors:
            raise self.errors.pop()
        return x * scale


@pytest.mark.parametrize("error", accidents(), ids=lambda error: type(error).__name__)
def test_an_accident_is_the_callers_and_the_next_call_launches(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(gate_kernel, "_broken", False)
    kernel = Kernel(error)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(type(error)) as caught:
            gate_kernel._launched(kernel, torch.ones(1), scale=2.0)
        assert caught.value is error
        assert gate_kernel._launched(kernel, torch.ones(1), scale=2.0) == 2.0


@pytest.mark.parametrize("error", refusals(), ids=lambda error: type(error).__name__)
def test_a_refusal_is_told_once_and_remembered(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(gate_kernel, "_broken", False)
    kernel = Kernel(error)
    with pytest.warns(RuntimeWarning, match="Triton cannot run here"):
        assert gate_kernel._launched(kernel, torch.ones(1), scale=2.0) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gate_kernel._launched(kernel, torch.ones(1), scale=2.0) is None
    assert kernel.calls == 1
