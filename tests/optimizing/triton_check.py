"""Run by `test_gate_kernel.py` in a process with Triton's interpreter on: the kernels against plain torch."""

from __future__ import annotations

import torch
import torchvision

from attn_inject import inject, optimize
from attn_inject.attention.gating import GATES
from attn_inject.optimizing import gate_kernel, triton_kernels

DTYPES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def check_gate_add() -> int:
    checked = 0
    for shape in ((2, 3, 5, 7), (1, 64, 4, 4), (3, 17, 1, 1), (2, 1, 33, 2)):
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
    poisoned = torch.full((1, 1, 1, 2), float("nan"))
    triton_kernels.gate_add(
        poisoned, torch.zeros(1, 1), torch.zeros(1, 1, 1, 2), hard=False, scale=1.0, relu=True, channels_last=False
    )
    assert poisoned.isnan().all()
    return checked


def check_two_layers() -> int:
    checked = 0
    for rows, inputs, hidden, channels in ((1, 64, 16, 256), (3, 70, 33, 65), (2, 5, 1, 3)):
        for dtype, bound in DTYPES.items():
            for silu in (False, True):
                for bias in (False, True):
                    torch.manual_seed(checked)
                    x, w1, b1 = torch.randn(rows, inputs), torch.randn(hidden, inputs) / 8, torch.randn(hidden)
                    w2, b2 = torch.randn(channels, hidden) / 8, torch.randn(channels) if bias else None
                    given = [None if t is None else t.to(dtype) for t in (x, w1, b1, w2, b2)]
                    inner = torch.nn.functional.linear(*(t.float() for t in given[:3]))
                    inner = torch.nn.functional.silu(inner) if silu else inner.relu()
                    last = None if given[4] is None else given[4].float()
                    expected = torch.nn.functional.linear(inner, given[3].float(), last)
                    got = triton_kernels.two_layers(*given, silu=silu)
                    assert (got.float() - expected).abs().max() <= bound * expected.abs().max(), (hidden, dtype)
                    checked += 1
    return checked


def check_networks() -> int:
    """Whole optimized networks whose kernels do run: the interpreter takes the place of the GPU."""
    launched: list[str] = []
    gate_kernel._may_launch = lambda *tensors: True
    gate_kernel.EarlyGate.pays = lambda *maps: True  # whatever the size: small maps, so that this takes seconds
    launch = gate_kernel._launched
    gate_kernel._launched = lambda kernel, *args, **kwargs: (
        launched.append(kernel.__name__),
        launch(kernel, *args, **kwargs),
    )[1]
    for name, kernels in (("resnet50", 2 * 16), ("resnet18", 8)):
        torch.manual_seed(0)
        patched = inject(torchvision.models.get_model(name), "se", input_size=(3, 32, 32)).eval()
        x = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            expected = patched(x)
            apart = (optimize(patched)(x) - expected).abs().max() / expected.abs().max()
        assert apart <= 1e-4, (name, apart)
        assert not gate_kernel._broken
        assert len(launched) == kernels, (name, launched)
        launched.clear()
    return 2


if __name__ == "__main__":
    print("checked", check_gate_add(), check_two_layers(), check_networks())
