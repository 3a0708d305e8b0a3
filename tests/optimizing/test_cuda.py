"""What only a GPU can show. Runs by itself wherever there is one; `python -m tests.bench.gpu` measures there."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from attn_inject import inject, load, optimize, report, save
from attn_inject.optimizing import gate_kernel
from attn_inject.optimizing.training import optimize_training

from . import triton_check

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DEVICE = "cuda"
LAYOUTS = [torch.contiguous_format, torch.channels_last]
# As many of a block's outputs as one of these types can tell apart, over sixteen blocks.
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 8e-2, torch.float16: 1e-2}


def patched_resnet(attention: str, make: Any = torchvision.models.resnet18) -> Any:
    """With norms whose weights and statistics are not those of a fresh model, so that every gate matters."""
    torch.manual_seed(0)
    model: nn.Module = make()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 1.5)
    return inject(model, attention, min_width=1, input_size=64) if attention == "se" else inject(model, attention)


def largest(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max())


def test_the_kernels_give_what_plain_torch_gives() -> None:
    with torch.device(DEVICE):
        assert triton_check.check_gate_add() == 120
        assert triton_check.check_two_layers() == 72


def test_more_images_than_a_grid_counts_along_its_other_axes() -> None:
    triton_kernels = pytest.importorskip("attn_inject.optimizing.triton_kernels")
    images = 70_000
    branch = torch.ones(images, 8, 2, 2, dtype=torch.float16, device=DEVICE)
    logits = torch.zeros(images, 8, dtype=torch.float16, device=DEVICE)
    triton_kernels.gate_add(
        branch, logits, branch.clone(), hard=False, scale=1.0, relu=True, channels_last=False
    )  # fmt: skip
    assert bool((branch == 1.5).all())


def test_a_map_of_more_elements_than_32_bits_count() -> None:
    triton_kernels = pytest.importorskip("attn_inject.optimizing.triton_kernels")
    if torch.cuda.mem_get_info()[0] < 12e9:
        pytest.skip("needs 12 GB of the GPU's memory")
    large = torch.ones(2200, 64, 128, 128, dtype=torch.float16, device=DEVICE)
    logits = torch.zeros(2200, 64, dtype=torch.float16, device=DEVICE)
    triton_kernels.gate_add(
        large, logits, large.clone(), hard=False, scale=1.0, relu=True, channels_last=False
    )  # fmt: skip
    assert bool((large[0] == 1.5).all())
    assert bool((large[-1] == 1.5).all())


@pytest.mark.parametrize("attention", ["se", "eca"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("images", [1, 3, 16, 33])
def test_optimized_networks_launch_the_kernels_and_compute_the_same(
    attention: str, layout: torch.memory_format, dtype: torch.dtype, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[str] = []
    launch = gate_kernel._launched

    def noted(kernel: Any, *args: Any, **kwargs: Any) -> torch.Tensor | None:
        launched.append(kernel.__name__)
        return launch(kernel, *args, **kwargs)

    monkeypatch.setattr(gate_kernel, "_launched", noted)
    patched = patched_resnet(attention).eval()
    fast = optimize(patched).to(DEVICE, dtype).to(memory_format=layout)
    x = torch.randn(images, 3, 64, 64, device=DEVICE)
    with torch.no_grad():
        expected = patched.to(DEVICE)(x)
        made = fast(x.to(dtype).contiguous(memory_format=layout))
    assert largest(made, expected) <= BOUNDS[dtype]
    assert launched.count("gate_add") == 8
    assert launched.count("two_layers") == (8 if attention == "se" else 0)
    assert not gate_kernel._broken


@pytest.mark.parametrize("attention", ["se", "eca"])
def test_one_image_under_a_cuda_graph(attention: str) -> None:
    fast = optimize(patched_resnet(attention).eval()).to(DEVICE)
    x = torch.randn(1, 3, 64, 64, device=DEVICE)
    with torch.no_grad():
        for _ in range(3):
            expected = fast(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = fast(x)
        graph.replay()
        torch.cuda.synchronize()
    assert largest(made, expected) <= 1e-5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_training_step(layout: torch.memory_format) -> None:
    patched = patched_resnet("se", torchvision.models.resnet50).double().to(DEVICE).to(memory_format=layout).train()
    fast = optimize_training(copy.deepcopy(patched))
    # With smaller images the last norms have four values a channel, and rounding grows a thousandfold on the way back.
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64, device=DEVICE).contiguous(memory_format=layout)
    outputs = [model(x) for model in (fast, patched)]
    torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-9)
    for output in outputs:
        output.square().sum().backward()
    for ours, theirs in zip(fast.parameters(), patched.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-8)


def test_a_training_step_needs_less_memory() -> None:
    peaks = []
    patched = patched_resnet("se", torchvision.models.resnet50).to(DEVICE).train()
    x = torch.randn(8, 3, 224, 224, device=DEVICE)
    for model in (patched, optimize_training(patched)):
        for _ in range(2):
            model.zero_grad(set_to_none=True)
            torch.cuda.reset_peak_memory_stats()
            model(x).square().mean().backward()
        peaks.append(torch.cuda.max_memory_allocated())
        model.zero_grad(set_to_none=True)
    assert peaks[1] < peaks[0]


def test_a_patched_network_made_on_the_gpu_is_saved_and_comes_back(tmp_path: Path) -> None:
    patched = inject(torchvision.models.resnet18().to(DEVICE), "eca").eval()
    assert {tensor.device.type for tensor in patched.state_dict().values()} == {DEVICE}
    save(patched, tmp_path / "patched.pt")
    again = load(tmp_path / "patched.pt", torchvision.models.resnet18()).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert largest(again(x), patched(x.to(DEVICE)).cpu()) <= 1e-4


def test_the_report_measures_on_the_gpu_and_names_it() -> None:
    model = torchvision.models.resnet18()
    text = str(report(model, inject(model, "eca"), device=DEVICE, bench_seconds=1.0, training=True))
    assert torch.cuda.get_device_name() in text
