"""Run by `test_gate_kernel.py` in a process with Triton's interpreter on: the kernels against plain torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from attn_inject import inject, optimize
from attn_inject.attention.gating import GATES
from attn_inject.optimizing import gate_kernel, triton_kernels
from attn_inject.optimizing.early_squeeze import EarlyGate

DTYPES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def check_gate_add() -> int:
    checked = 0
    for shape in ((2, 3, 5, 7), (1, 64, 4, 4), (3, 17, 1, 1), (2, 1, 33, 2), (3, 40, 8, 9)):
        for dtype, bound in DTYPES.items():
            for layout in (torch.contiguous_format, torch.channels_last):
                for gate in GATES:
                    for relu in (False, True):
                        torch.manual_seed(checked)
                        branch, shortcut = (torch.randn(shape).to(dtype).to(memory_format=layout) for _ in range(2))
                        logits = torch.randn(shape[:2]).to(dtype) * 3
                        weights = 2 * GATES[gate](logits.float())[:, :, None, None]
                        expected = branch.float() * weights + shortcut.float()
                        expected = expected.relu() if relu else expected
                        last = branch.is_contiguous(memory_format=torch.channels_last) and not branch.is_contiguous()
                        got = triton_kernels.gate_add(
                            branch, logits, shortcut, hard=gate == "hardsigmoid", scale=2.0, relu=relu,
                            channels_last=last,
                        )  # fmt: skip
                        assert got is branch
                        assert (got.float() - expected).abs().max() <= bound * expected.abs().max(), (shape, dtype)
                        checked += 1
    empty = torch.empty(0, 64, 7, 7)
    nothing = triton_kernels.gate_add(
        empty, torch.empty(0, 64), empty.clone(), hard=False, scale=1.0, relu=True, channels_last=False
    )
    assert nothing is empty
    poisoned = torch.full((1, 1, 1, 2), float("nan"))
    triton_kernels.gate_add(
        poisoned, torch.zeros(1, 1), torch.zeros(1, 1, 1, 2), hard=False, scale=1.0, relu=True, channels_last=False
    )
    assert poisoned.isnan().all()
    return checked


def check_two_layers() -> int:
    checked = 0
    few, many = ((0, 5, 1, 3), (1, 64, 16, 256), (3, 70, 33, 65), (2, 5, 1, 3)), ((16, 64, 16, 256), (37, 70, 33, 131))
    for rows, inputs, hidden, channels in few + many:
        for dtype, bound in DTYPES.items():
            for silu in (False, True):
                for bias in (False, True):
                    torch.manual_seed(checked)
                    x, w1, b1 = torch.randn(rows, inputs), torch.randn(hidden, inputs) / 8, torch.randn(hidden)
                    w2, b2 = torch.randn(channels, hidden) / 8, torch.randn(channels) if bias else None
                    x, w1, b1, w2 = (t.to(dtype) for t in (x, w1, b1, w2))
                    # An early pool has the bias of the norm, a late one that of the layer, if it has one.
                    first = b1 if bias or rows == 1 else None
                    b2 = None if b2 is None else b2.to(dtype)
                    inner = torch.nn.functional.linear(x.float(), w1.float(), None if first is None else first.float())
                    inner = torch.nn.functional.silu(inner) if silu else inner.relu()
                    expected = torch.nn.functional.linear(inner, w2.float(), None if b2 is None else b2.float())
                    got = triton_kernels.two_layers(x, w1, first, w2, b2, silu=silu)
                    assert got.shape == expected.shape
                    if rows:
                        apart = (got.float() - expected).abs().max()
                        assert apart <= bound * expected.abs().max(), (rows, hidden, dtype)
                    checked += 1
    return checked


def check_networks() -> int:
    """Whole optimized networks whose kernels do run: the interpreter takes the place of the GPU."""
    launched: list[str] = []
    gate_kernel._may_launch = lambda *tensors: True
    # Whatever the size: small maps, so that this takes seconds.
    EarlyGate.pays = lambda *maps: True  # type: ignore[method-assign]
    launch = gate_kernel._launched

    def noted(kernel: Callable[..., torch.Tensor], *args: object, **kwargs: object) -> torch.Tensor | None:
        launched.append(kernel.__name__)
        return launch(kernel, *args, **kwargs)

    gate_kernel._launched = noted
    # One block a stage: the interpreter takes a second for each kernel of the last ones.
    for block, kernels in ((Bottleneck, 2 * 4), (BasicBlock, 2 * 4)):
        torch.manual_seed(0)
        patched = inject(ResNet(block, [1, 1, 1, 1]), "se", input_size=(3, 32, 32)).eval()
        x = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            expected = patched(x)
            apart = (optimize(patched)(x) - expected).abs().max() / expected.abs().max()
        assert apart <= 1e-4, (block, apart)
        assert not gate_kernel._broken
        assert len(launched) == kernels, (block, launched)
        launched.clear()
    return 2


if __name__ == "__main__":
    print("checked", check_gate_add(), check_two_layers(), check_networks())
