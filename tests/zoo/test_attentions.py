"""Every attention of the catalogue in five networks, and out of a small one through compilers and exporters.

In the five: both forms start as the network to the bit, training reaches every kind of new parameter, bfloat16 is
finite, and a file brings the attention back to the bit. Every third site is gated, to save time. Out of the small
network, with a residual and an Inception block: torch.compile whole (backend "eager", since what it takes is the
question), torch.export and ONNX by onnxruntime, with batch and image size open; `test_out_of_networks` has the five.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from attn_inject import (
    AttentionError,
    attention_parameters,
    attention_state_dict,
    inject,
    load,
    save,
)
from attn_inject.attention.catalogue import NOT_EXPORTED, catalogue
from attn_inject.attention.registry import library_names
from attn_inject.planning.choices import Choices
from attn_inject.planning.plan import plan_for
from attn_inject.saving.exported import tidy
from attn_inject.sites.reading import LocatedModel, read
from attn_inject.surgery.apply import apply_to
from attn_inject.surgery.attach import attach_plan

from ..attention.idle import is_idle
from ..by_hand import by_hand
from ..toys import SPELLINGS, Block, Lambda, Toy, conv

pytestmark = pytest.mark.zoo

NETWORKS: dict[str, tuple[int, ...]] = {
    "torchvision:resnet18": (3, 48, 64),
    "torchvision:mobilenet_v3_small": (3, 64, 48),
    "timm:convnext_atto": (3, 64, 64),
    "torchvision:r3d_18": (3, 4, 24, 24),
    "torchvision:inception_v3": (3, 80, 80),
}
AXES = {entry.name: entry.axes for entry in catalogue()}
NAMES = library_names()
# Steps until every kind of parameter has had its gradient: what a zero scalar holds back gets it in the second one.
# Shuffle attention's norm waits for the weight behind it besides, which starts at zero in the authors' code.
STEPS = defaultdict(lambda: 2, sa=3)


@functools.cache
def located_network(network: str) -> LocatedModel:
    """The network, read once in each process; weights that start near zero would hide what a gate does."""
    library, _, plain = network.partition(":")
    torch.manual_seed(0)
    more: dict[str, Any] = {"init_weights": False, "aux_logits": False} if plain == "inception_v3" else {}
    model = timm.create_model(plain) if library == "timm" else torchvision.models.get_model(plain, **more)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.abs().max() < 1e-3:
                parameter.uniform_(0.5, 1.5)
    return read(model.eval(), input_size=NETWORKS[network])


def _inputs(network: str, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, *NETWORKS[network], generator=torch.Generator().manual_seed(1))


def _is_left_out(pair: tuple[str, str]) -> bool:
    """So that each attention is asked in three of the networks, and each network with three of five attentions."""
    return (NAMES.index(pair[0]) + list(NETWORKS).index(pair[1])) % 5 > 2


@pytest.mark.parametrize(("name", "network"), by_hand(itertools.product(NAMES, NETWORKS), _is_left_out))
def test_in_a_network(name: str, network: str, tmp_path: Path) -> None:
    located = located_network(network)
    choices = Choices(attention=name, init="identity", every=3)
    if len(NETWORKS[network]) - 1 not in AXES[name]:
        with pytest.raises(AttentionError, match=r"^\S+: .* maps of 2 (spatial )?axes"):
            plan_for(located, choices)
        return
    model, x = located.model, _inputs(network)
    plan = plan_for(located, choices)
    # What the check would find is found below; `attach_plan` makes its own.
    patched = apply_to(located, plan, check=False)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(patched.eval()(x), expected)
        assert torch.equal(attach_plan(located, plan).eval()(x), expected)
    _must_train(name, copy.deepcopy(patched), [insertion.module for insertion in plan.insertions], x)
    with torch.no_grad():
        for parameter in attention_parameters(patched):
            parameter.normal_(std=0.5)
        moved = patched(x)
        assert not torch.equal(moved, expected)
        if attention_state_dict(patched):
            save(patched, tmp_path / "m.pt", attention_only=True)
            assert torch.equal(load(tmp_path / "m.pt", model).eval()(x), moved)
        small = x[:1] if x.dim() == 4 else x[:1, :, :2, :16, :16]  # torch's bfloat16 convolutions of clips are slow
        # oneDNN's bfloat16 convolution of clips in groups (9x9x9 in 16, as `psa` has it) reads beyond its memory on
        # processors with AMX: not a number in torch 2.14, and a crash of torch's own layer alone, in 2.6 too.
        with torch.backends.mkldnn.flags(enabled=x.dim() == 4):
            assert patched.bfloat16()(small.bfloat16()).isfinite().all()


def _must_train(attention: str, patched: nn.Module, modules: list[str], x: torch.Tensor) -> None:
    """Each kind of parameter is reached at one site at least, since a hidden layer of one channel may be dead."""
    new = {
        f"{module} {name}": parameter
        for module in modules
        for name, parameter in patched.get_submodule(module).named_parameters()
    }
    optimizer = torch.optim.SGD(new.values(), lr=0.1)
    reached: dict[str, bool] = defaultdict(bool)
    for _ in range(STEPS[attention]):
        optimizer.zero_grad()
        patched.train()(x).square().mean().backward()
        for name, parameter in new.items():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            reached[name.partition(" ")[2]] |= bool(parameter.grad.any())
        optimizer.step()
    assert {name for name, is_so in reached.items() if not is_so and not is_idle(attention, name)} == set()


def _small() -> nn.Module:
    """A residual block of 24 channels, and an Inception block of as many."""
    residual = Block(SPELLINGS["+="], 16, 24, 2)
    mixed = Lambda(
        lambda m, x: torch.cat([m.a(x), m.b(torch.relu(m.c(x)))], 1), a=conv(24, 8, 1), b=conv(8, 16), c=conv(24, 8, 1)
    )
    return Toy(nn.Sequential(residual, mixed, conv(24, 24)), out=24)


@pytest.mark.parametrize("name", NAMES)
def test_out_of_a_small_network(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    patched = inject(_small(), name, input_size=(3, 24, 32)).eval()
    assert {insertion.site.kind for insertion in patched.injection.plan.insertions} == {"residual", "mixed"}
    x, other = torch.randn(2, 3, 24, 32), torch.randn(3, 3, 38, 30)
    with torch.no_grad():
        expected = patched(other)
        torch._dynamo.reset()
        compiled = torch.compile(patched, fullgraph=True, backend="eager", dynamic=True)
        must_be_close(compiled(x), patched(x))
        must_be_close(compiled(other), expected)
        if name in NOT_EXPORTED:
            with pytest.raises(Exception, match=NOT_EXPORTED[name]):
                _exported(patched, x)
            return
        program = _exported(patched, x)
        must_be_close(program.module()(other), expected)
        must_be_close(run_by_onnxruntime(program, other, tmp_path / "m.onnx"), expected)


def must_be_close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    """Sums in another order."""
    assert (ours - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


def _exported(model: nn.Module, x: torch.Tensor) -> torch.export.ExportedProgram:
    dynamic = torch.export.Dim.DYNAMIC
    return torch.export.export(model, (x,), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},))


def run_by_onnxruntime(program: torch.export.ExportedProgram, x: torch.Tensor, path: Path) -> torch.Tensor:
    import onnxruntime

    made = torch.onnx.export(program, dynamo=True, verbose=False, optimize=False)
    assert made is not None
    tidy(made)
    made.save(str(path), external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
