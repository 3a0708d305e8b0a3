"""The optimized graph gives the same outputs, says what it did, and overwrites nothing that anybody reads."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from attn_inject import PlanError, inject, optimize
from attn_inject.optimizing.optimized import TOLERANCE, fold_norms

from .. import toys

SIZE = (3, 64, 64)


def _shaken(model: nn.Module) -> nn.Module:
    """Norms with statistics and weights that are not those of a fresh model."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, shift in (
                    (module.weight, 0.5),
                    (module.bias, -0.5),
                    (module.running_mean, -0.5),
                    (module.running_var, 0.5),
                ):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + shift)
    return model.eval()


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


NETS = {
    # norms folded, pooled early, adds fused
    "resnet50": (53, 16, 16),
    "resnet18": (20, 0, 8),
    "mobilenet_v2": (52, 0, 10),
    "resnext50_32x4d": (53, 16, 16),
    "convnext_tiny": (0, 0, 0),
}
# Seconds each: with the sweeps.
SLOW = ("resnet50", "resnext50_32x4d", "convnext_tiny")


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["se", "eca"])
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.zoo] * (name in SLOW)) for name in NETS])
def test_real_networks(name: str, attention: str) -> None:
    torch.manual_seed(0)
    model = _shaken(torchvision.models.get_model(name))
    options = {"min_width": 1} if attention == "se" else {}
    patched = inject(model, attention, input_size=SIZE, **options).eval()
    fast = optimize(patched)
    done = fast.rewritten
    assert (done.norms_folded, done.pooled_early, done.adds_fused) == NETS[name]
    x = torch.randn(2, *SIZE)
    with torch.no_grad():
        expected, kept = patched(x), x.clone()
        first = fast(x)
        assert _apart(first, expected) <= TOLERANCE[torch.float32]
        assert torch.equal(fast(x), first)
        assert torch.equal(x, kept)
        assert torch.equal(patched(x), expected)
        assert _apart(fast(x.to(memory_format=torch.channels_last)), expected) <= TOLERANCE[torch.float32]
        assert torch.equal(torch.compile(fast, fullgraph=True, backend="eager")(x), first)
        assert _apart(fast(x[:1]), expected[:1]) <= TOLERANCE[torch.float32]


def test_low_precision() -> None:
    torch.manual_seed(0)
    patched = inject(_shaken(torchvision.models.resnet18()), "se", input_size=SIZE).eval().to(torch.bfloat16)
    x = torch.randn(2, *SIZE, dtype=torch.bfloat16)
    with torch.no_grad():
        assert _apart(optimize(patched)(x).float(), patched(x).float()) <= TOLERANCE[torch.bfloat16]


@pytest.mark.slow
@pytest.mark.parametrize("left_out", ["norm_folding", "early_squeeze", "gate_add", "gate_kernel"])
def test_each_rewrite_can_be_left_out(left_out: str) -> None:
    torch.manual_seed(0)
    patched = inject(_shaken(torchvision.models.resnet50()), "eca", input_size=SIZE).eval()
    fast = optimize(patched, disable=[left_out])
    x = torch.randn(1, *SIZE)
    with torch.no_grad():
        assert _apart(fast(x), patched(x)) <= TOLERANCE[torch.float32]
    counts = {
        "norm_folding": fast.rewritten.norms_folded,
        "early_squeeze": fast.rewritten.pooled_early,
        "gate_add": fast.rewritten.adds_fused,
        "gate_kernel": fast.rewritten.gates_in_kernels,
    }
    assert counts[left_out] == 0
    # Without the adds that fuse there is nothing for the kernels; else each rewrite stands on its own.
    lost = {left_out} | ({"gate_kernel"} if left_out == "gate_add" else set())
    assert {name for name, count in counts.items() if count == 0} == lost
    with pytest.raises(PlanError, match="the rewrites are"):
        optimize(patched, disable=["everything"])


class Repeated(nn.Module):
    """One block that runs three times in a pass, and that has a layer under the name our weights would take."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.stem, self.a, self.b = toys.conv(3, 16), toys.conv(16, inner), nn.Conv2d(inner, 16, 1)
        self.se_weights = nn.Conv2d(16, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = F.relu(self.b(F.relu(self.a(x))) + x)
        out: torch.Tensor = self.se_weights(x)
        return out


@pytest.mark.parametrize(("inner", "early"), [(4, 3), (16, 0)])
def test_a_block_that_runs_again_is_as_fast_each_time(inner: int, early: int) -> None:
    torch.manual_seed(0)
    model = Repeated(inner).eval()
    patched = inject(model, "se", reduction=4, input_size=(3, 16, 16)).eval()
    fast = optimize(patched)
    done = fast.rewritten
    assert (done.pooled_early, done.adds_fused, done.gates_in_kernels) == (early, 3, 3)
    # Rows and columns like images and channels: gates in the wrong form would pass as maps.
    for shape in ((1, 3, 16, 16), (2, 3, 16, 16), (16, 3, 16, 16)):
        x = torch.randn(shape)
        with torch.no_grad():
            assert _apart(fast(x), patched(x)) <= TOLERANCE[torch.float32]


class Escaping(nn.Module):
    """The branch's last map is read again after the add: it must not be overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = toys.conv(3, 8), toys.conv(8, 8), nn.Conv2d(8, 16, 1)
        self.project = nn.Conv2d(8, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        branch = self.b(F.relu(self.a(x)))
        out = self.project(x) + branch
        return out + branch.mean()


def test_memory_that_others_read_is_left_alone() -> None:
    torch.manual_seed(0)
    model = Escaping().eval()
    patched = inject(model, "se", reduction=4, input_size=(3, 16, 16)).eval()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert _apart(optimize(patched)(x), patched(x)) <= TOLERANCE[torch.float32]


def test_a_strided_or_padded_last_convolution_is_not_pooled_early() -> None:
    class Net(nn.Module):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 1, **options)
            self.project = nn.Conv2d(3, 8, 1, **options)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.project(x) + self.b(F.relu(self.a(x)))

    for options, early in (({}, 1), ({"stride": 2}, 0), ({"padding": 1}, 0)):
        torch.manual_seed(0)
        patched = inject(Net(**options).eval(), "se", reduction=4, input_size=(3, 16, 16)).eval()
        fast = optimize(patched)
        assert fast.rewritten.pooled_early == early
        x = torch.randn(2, 3, 16, 16)
        with torch.no_grad():
            assert _apart(fast(x), patched(x)) <= TOLERANCE[torch.float32]


def test_a_plain_model_is_folded_the_same_way() -> None:
    torch.manual_seed(0)
    model = _shaken(timm.create_model("resnet10t"))
    folded = fold_norms(model)
    x = torch.randn(1, *SIZE)
    with torch.no_grad():
        assert _apart(folded(x), model(x)) <= TOLERANCE[torch.float32]
    with pytest.raises(PlanError, match="for inference"):
        folded.train()
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_a_norm_with_an_activation_in_it_keeps_the_activation() -> None:
    torch.manual_seed(0)
    patched = inject(_shaken(timm.create_model("regnetx_002")), "se", min_width=1, input_size=SIZE).eval()
    fast = optimize(patched)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.modules())
    assert fast.rewritten.norms_folded == sum(isinstance(m, nn.BatchNorm2d) for m in patched.modules())
    assert fast.rewritten.adds_fused == 13
    x = torch.randn(2, *SIZE)
    with torch.no_grad():
        assert _apart(fast(x), patched(x)) <= TOLERANCE[torch.float32]


class Scaled(nn.BatchNorm2d):
    """A norm that does more than its layers say."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_a_norm_of_somebodys_own_is_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Scaled(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)).eval()
    folded = fold_norms(model, example_inputs=torch.randn(1, 3, 8, 8))
    assert folded.rewritten.norms_folded == 1
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert _apart(folded(x), model(x)) <= TOLERANCE[torch.float32]


def test_nodes_that_do_nothing_go_and_hooks_stay() -> None:
    heard = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.drop, self.id, self.heard = nn.Conv2d(3, 8, 1), nn.Dropout(), nn.Identity(), nn.Identity()
            self.heard.register_forward_hook(lambda *_: heard.append(1))
            self.depth = torchvision.ops.StochasticDepth(0.5, "row")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.dropout(self.id(self.drop(self.a(x))), 0.5, self.training)
            return self.heard(self.depth(y))

    x = torch.randn(1, 3, 8, 8)
    model = Net().eval()
    plain = fold_norms(model, example_inputs=x)
    assert plain.rewritten.identities_removed == 4
    with torch.no_grad():
        assert torch.equal(plain(x), model(x))
    assert len(heard) == 2


@pytest.mark.parametrize("attention", ["se", "eca", "se-var1", "se-var2", "se-var3", "se-gc", "eca-ns"])
@pytest.mark.parametrize("form", ["folded", "norm", "groups"])
def test_the_merged_first_step_is_exact(attention: str, form: str) -> None:
    """In float64, so that only an error in the algebra could show."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 32, 1, groups=4 if form == "groups" else 1)
            self.norm, self.project = nn.BatchNorm2d(32), nn.Conv2d(3, 32, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(self.project(x) + self.norm(self.b(F.relu(self.a(x)))))

    torch.manual_seed(0)
    model = _shaken(Net()).double()
    options = {"reduction": 4, "bias": True} if attention == "se" else {}
    patched = inject(model, attention, example_inputs=torch.randn(1, 3, 8, 8).double(), **options).eval()
    with torch.no_grad():
        for parameter in patched.parameters():
            parameter.normal_()
        fast = optimize(patched, disable=["norm_folding"] if form == "norm" else [])
        assert fast.rewritten.pooled_early == 1
        x = torch.randn(3, 3, 8, 8).double()
        assert _apart(fast(x), patched(x)) <= 1e-12


def test_the_pool_is_taken_where_less_is_read() -> None:
    """One small image's map is less to read than the merged layer, many images' maps are more (E4)."""
    torch.manual_seed(0)
    patched = inject(_shaken(torchvision.models.resnet50()), "eca", input_size=SIZE).eval()
    fast = optimize(patched, disable=["gate_kernel"])
    gate = fast.get_submodule("layer4.2.eca_weights")
    for images, early in ((1, False), (256, True)):
        x, value = torch.randn(images, 512, 7, 7), torch.randn(images, 2048, 7, 7)
        assert gate.pays(x, value) is early
    x = torch.randn(20, *SIZE)
    with torch.no_grad():
        assert _apart(fast(x), patched(x)) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize(
    ("last", "fused"),
    [
        (nn.GroupNorm(4, 16), 1),
        (nn.SiLU(), 1),
        (nn.SiLU(inplace=True), 1),
        (nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)), 1),
        (nn.Hardtanh(), 1),
        (nn.MaxPool2d(3, 1, 1), 0),
    ],
)
def test_what_is_fresh_memory(last: nn.Module, fused: int) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b, self.last = toys.conv(3, 16), toys.conv(16, 16), toys.conv(16, 16), last

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return F.relu(x + self.last(self.b(F.relu(self.a(x)))))

    torch.manual_seed(0)
    patched = inject(Net().eval(), "se", reduction=4, input_size=(3, 16, 16)).eval()
    fast = optimize(patched)
    assert fast.rewritten.adds_fused == fused
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert _apart(fast(x), patched(x)) <= TOLERANCE[torch.float32]
        assert torch.equal(fast(x), fast(x))


def test_an_activation_in_place_on_what_others_read_is_not_fresh() -> None:
    """The branch and the value beside it are one memory: overwriting the branch would change what is read later."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b, self.act = toys.conv(3, 16), toys.conv(16, 16), toys.conv(16, 16), nn.ReLU(True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            y = self.b(F.relu(self.a(x)))
            out = F.relu(x + self.act(y))
            return out + y.mean()

    torch.manual_seed(0)
    patched = inject(Net().eval(), "se", reduction=4, input_size=(3, 16, 16)).eval()
    fast = optimize(patched)
    assert fast.rewritten.adds_fused == 0
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert _apart(fast(x), patched(x)) <= TOLERANCE[torch.float32]
