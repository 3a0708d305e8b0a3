"""When the kernels are launched: on tensors that say they are on a GPU, where there is none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from attn_inject import inject, optimize
from attn_inject.optimizing import gate_kernel
from attn_inject.optimizing.gate_kernel import Logits, open_gate_and_add
from attn_inject.zoo.cifar import models

OPERANDS = ("branch", "logits", "shortcut")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Which kernels would have been; each says that it could not be built, so that plain operations follow."""
    noted: list[str] = []

    def note(kernel: str, *_: Any, **__: Any) -> None:
        noted.append(kernel)

    named = SimpleNamespace(gate_add="gate_add", two_layers="two_layers")
    monkeypatch.setattr(gate_kernel, "_kernels", lambda: named)
    monkeypatch.setattr(gate_kernel, "_launched", note)
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield noted


def _maps(device: str = "cuda", dtype: torch.dtype = torch.float32, last: bool = False) -> dict[str, torch.Tensor]:
    sizes = {"branch": (2, 8, 4, 4), "logits": (2, 8), "shortcut": (2, 8, 4, 4)}
    made = {name: torch.empty(size, device=device, dtype=dtype) for name, size in sizes.items()}
    if last:
        made |= {name: made[name].to(memory_format=torch.channels_last) for name in ("branch", "shortcut")}
    return made


def _run(maps: dict[str, torch.Tensor]) -> torch.Tensor:
    return open_gate_and_add(*(maps[name] for name in OPERANDS), gate="sigmoid", scale=1.0, relu=True)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_launched(dtype: torch.dtype, last: bool, launched: list[str]) -> None:
    assert _run(_maps(dtype=dtype, last=last)).shape == (2, 8, 4, 4)
    assert launched == ["gate_add"]


@pytest.mark.parametrize("name", OPERANDS)
def test_no_gradient_is_lost(name: str, launched: list[str]) -> None:
    """A kernel that writes over the branch has none to hand back, whichever operand asks."""
    maps = _maps()
    maps[name].requires_grad_()
    assert _run(maps).requires_grad
    assert launched == []
    with torch.no_grad():
        _run(maps)
    assert launched == ["gate_add"]


def test_what_is_not(launched: list[str]) -> None:
    mixed = _maps()
    mixed["shortcut"] = mixed["shortcut"].to(memory_format=torch.channels_last)
    single = _maps()
    single["logits"] = single["logits"].to(torch.bfloat16)
    sliced = {name: torch.empty(2, 16, 4, 4, device="cuda")[:, ::2] for name in ("branch", "shortcut")}
    for maps in (_maps("cpu"), _maps(dtype=torch.float64), mixed, single, {**_maps(), **sliced}):
        _run(maps)
    assert launched == []


@pytest.mark.parametrize("which", ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"])
def test_two_layers_are_launched_where_no_weight_asks_for_a_gradient(which: str, launched: list[str]) -> None:
    with torch._subclasses.fake_tensor.unset_fake_temporarily():
        fast = optimize(inject(models()["resnet20"](), "se", bias=True, input_size=(3, 16, 16)).eval())
        (logits, *_) = (module for module in fast.modules() if isinstance(module, Logits))
    logits.requires_grad_(requires_grad=False).to("cuda")
    x = torch.empty(2, 16, 8, 8, device="cuda")
    logits(x)
    assert launched == ["two_layers"]
    logits.attention.get_parameter(which).requires_grad_()
    assert logits(x).requires_grad
    assert launched == ["two_layers"]
