"""The train graph with less traffic: the same outputs, gradients and running statistics, in float64."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.utils.checkpoint import checkpoint

from attn_inject import PlanError, fold, inject, verify
from attn_inject.optimizing.norm_folding import is_batch_norm
from attn_inject.optimizing.train_steps import gate_and_add, norm_and_pool, scale_and_add
from attn_inject.optimizing.training import optimize_training
from attn_inject.tracing.injected import InjectedModule
from attn_inject.zoo import cifar

from ..bench.memory import kept_by, kept_compiled, kept_under_autocast
from ..one_process import group

SIZE = (3, 32, 32)


def _patched(model: nn.Module, attention: str = "se", **options: object) -> InjectedModule:
    """In float64, with norms whose weights and statistics are not those of a fresh model."""
    torch.manual_seed(0)
    model = model.double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 1.5)
    return inject(model, attention, example_inputs=torch.randn(2, *SIZE).double(), **options).train()


def _step(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)
    out = model(x)
    out.square().sum().backward()
    return out.detach()


def _same_step(patched: InjectedModule, fast: InjectedModule, size: tuple[int, ...] = SIZE) -> None:
    x = torch.randn(4, *size).double()
    a, b = _step(patched, x), _step(fast, x)
    torch.testing.assert_close(b, a, rtol=1e-11, atol=1e-11)
    gradients = [(p.grad, q.grad) for p, q in zip(patched.parameters(), fast.parameters(), strict=True)]
    largest = max(float(p.abs().max()) for p, _ in gradients)
    assert max(float((p - q).abs().max()) for p, q in gradients) <= 1e-11 * largest
    for before, after in zip(patched.buffers(), fast.buffers(), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-11, atol=1e-11)


def _calls(model: InjectedModule, function: object, arguments: int) -> int:
    """How often the train graph calls the function with so many arguments that are there."""
    nodes = [node for node in model.graph_of("train").nodes if node.target is function]
    return sum(len([a for a in node.args if a is not None]) == arguments for node in nodes)


def _added(model: InjectedModule) -> int:
    return _calls(model, gate_and_add, 3)


def _early(model: InjectedModule) -> int:
    return _calls(model, norm_and_pool, 5)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["se", "eca"])
@pytest.mark.parametrize(
    ("name", "added", "early"),
    [
        pytest.param("resnet50", 16, 16, marks=pytest.mark.zoo),
        ("resnet18", 8, 0),
        ("mobilenet_v2", 10, 0),
        pytest.param("resnext50_32x4d", 16, 16, marks=pytest.mark.zoo),
    ],
)
def test_a_step_is_the_same(name: str, added: int, early: int, attention: str) -> None:
    options = {"min_width": 1} if attention == "se" else {}
    patched = _patched(torchvision.models.get_model(name), attention, **options)
    twin = copy.deepcopy(patched)
    fast = optimize_training(twin)
    assert (_added(fast), _early(fast)) == (added, early)
    _same_step(patched, fast)


def test_drop_path_stands_between_the_product_and_the_add() -> None:
    patched = _patched(timm.create_model("resnet26", drop_path_rate=0.3, zero_init_last=False), "eca")
    fast = optimize_training(copy.deepcopy(patched))
    assert _early(fast) == 8
    assert _added(fast) == 1
    _same_step(patched, fast)


def test_a_norm_that_is_frozen_in_training_uses_its_statistics() -> None:
    patched = _patched(torchvision.models.resnet50())
    for module in patched.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    _same_step(patched, optimize_training(copy.deepcopy(patched)))


@pytest.mark.slow
def test_it_is_one_model_with_the_patched_one() -> None:
    patched = _patched(torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 2, 1, 1]))
    fast = optimize_training(patched)
    assert [id(p) for p in fast.parameters()] == [id(p) for p in patched.parameters()]
    assert list(fast.state_dict()) == list(patched.state_dict())
    x = torch.randn(2, *SIZE).double()
    optimizer = torch.optim.SGD(fast.parameters(), lr=1e-9)
    _step(fast, x)
    optimizer.step()
    assert torch.equal(fast.eval()(x), patched.eval()(x))
    again = pickle.loads(pickle.dumps(fast))
    assert torch.equal(again.eval()(x), fast.eval()(x))
    twice = optimize_training(pickle.loads(pickle.dumps(patched)))
    assert _added(twice) == 5
    torch.manual_seed(0)
    compiled = torch.compile(fast.train(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), fast(x), rtol=1e-9, atol=1e-9)


def test_what_has_no_attention_is_refused() -> None:
    with pytest.raises(PlanError, match="inject"):
        optimize_training(torchvision.models.resnet18())


def test_a_norm_with_an_activation_class_of_its_own_is_told_by_what_it_does() -> None:
    plain, acting = BatchNormAct2d(8, apply_act=False), BatchNormAct2d(8)
    before = copy.deepcopy(plain.state_dict())
    assert is_batch_norm(plain.train())
    assert plain.training
    assert all(torch.equal(before[name], tensor) for name, tensor in plain.state_dict().items())
    assert is_batch_norm(copy.deepcopy(plain).to("meta"))
    assert not is_batch_norm(acting)
    patched = _patched(timm.create_model("regnetx_002"), "eca")
    fast = optimize_training(copy.deepcopy(patched))
    assert _added(fast) == 13
    # At 32x32 the last norms have four values a channel, and rounding grows a thousandfold on the way back.
    _same_step(patched, fast, (3, 64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["se", "eca"])
def test_a_step_in_single_precision(attention: str) -> None:
    """As near to the gradients of double precision as the patched network's own."""
    model = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1])
    patched = _patched(model, attention)
    single = copy.deepcopy(patched).float()
    x = torch.randn(4, 3, 64, 64).double()
    gradients = []
    for each in (patched, single, optimize_training(copy.deepcopy(single))):
        _step(each, x.to(each.get_parameter("fc.weight").dtype))
        gradients.append(torch.cat([p.grad.double().flatten() for p in each.parameters()]))
    right, theirs, ours = gradients
    assert float((ours - right).norm()) <= max(2 * float((theirs - right).norm()), 1e-6 * float(right.norm()))
    assert float((ours - right).norm()) <= 1e-4 * float(right.norm())


@pytest.mark.parametrize("added", [True, False])
def test_a_product_after_no_norm_has_gradients_of_gradients(added: bool) -> None:
    shapes = [(2, 3, 2, 2), (2, 3, 1, 1), *([(2, 3, 2, 2)] if added else [])]
    given = [torch.randn(shape).double().requires_grad_() for shape in shapes]

    def run(value: torch.Tensor, weights: torch.Tensor, shortcut: torch.Tensor | None = None) -> torch.Tensor:
        return scale_and_add(value, weights, shortcut)

    assert torch.autograd.gradcheck(run, given)
    assert torch.autograd.gradgradcheck(run, given)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_step_under_autocast(layout: torch.memory_format) -> None:
    """Gradients as near to those of single precision as the patched network's are.

    At 32x32 the last norms have four values a channel: both are then off by a third of the gradient or by twice it.
    """
    torch.manual_seed(0)
    model = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1])
    patched = _patched(model, "se").float().to(memory_format=layout)
    fast = optimize_training(copy.deepcopy(patched))
    x = torch.randn(4, 3, 64, 64).contiguous(memory_format=layout)
    gradients = []
    for each, half in ((copy.deepcopy(patched), False), (patched, True), (fast, True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = each(x).float().square().mean()
        out.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in each.parameters() if p.grad is not None]))
    right, theirs, ours = gradients
    assert float((ours - right).norm()) <= 1.2 * float((theirs - right).norm()) <= 0.5 * float(right.norm())


@pytest.mark.parametrize("attention", ["se", "eca", "srm"])
def test_nothing_is_kept_for_the_gates_under_autocast(attention: str) -> None:
    """Neither maps nor copies of the gates' weights: with two small images SE's would be many."""
    model = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1])
    patched = _patched(model, attention).float()
    x = torch.randn(2, *SIZE)
    plain = kept_under_autocast(model.float().train(), x)
    before, after = (kept_under_autocast(each, x) for each in (patched, optimize_training(patched)))
    assert after <= 1.005 * plain < before


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["se", "srm"])
def test_an_empty_batch(attention: str) -> None:
    patched = inject(torchvision.models.resnet18(), attention)
    for frozen in (False, True):
        fast = optimize_training(patched).train()
        for module in fast.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(not frozen)
        out = fast(torch.zeros(0, *SIZE))
        out.sum().backward()
        assert out.shape == (0, 1000)


def test_verified_like_what_it_was_made_of() -> None:
    model = torchvision.models.resnet18()
    patched = inject(model, "se", copy=True)
    assert verify(model, optimize_training(patched)).passed
    fast = optimize_training(patched)
    (read, *_) = [node for node in fast.graph_of("train").nodes if node.target == "layer1.0.se"]
    read.target = "layer1.1.se"
    (edits,) = [check for check in verify(model, fast).checks if check.name == "edits"]
    assert not edits.passed
    assert "layer1.0.se 0x in train" in edits.figure


@pytest.mark.slow
def test_what_is_taken_to_pieces_is_not_folded() -> None:
    """Its train graph would call what is no longer there."""
    torch.manual_seed(0)
    images = [torch.randn(2, *SIZE) for _ in range(2)]
    patched = inject(cifar.models()["resnet20"](), "se")
    folded = fold(optimize_training(patched), images, 1.0)
    assert not folded.folding.folded
    assert all("optimize_training() has taken it to pieces" in reason for _, reason in folded.folding.kept)
    assert folded.train()(images[0]).shape == (2, 10)
    assert fold(patched, images, 1.0).folding.folded


@pytest.mark.slow
def test_compiled_it_keeps_no_more() -> None:
    """A compiler chooses itself what to keep: less than runs of the code do, and no map for the gates."""
    model = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1])
    fast = optimize_training(_patched(model, "se").float())
    x = torch.randn(4, 3, 64, 64)
    plain, ours = (kept_compiled(each, x) for each in (model.float(), fast))
    assert ours <= kept_by(fast, fast, x)
    assert ours <= 1.02 * plain


def test_in_a_distributed_model_and_under_checkpointing(tmp_path: Path) -> None:
    patched = _patched(torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1]), "se")
    fast = optimize_training(copy.deepcopy(patched))
    x = torch.randn(3, *SIZE).double()
    _step(copy.deepcopy(patched), x)
    again = copy.deepcopy(fast)
    _step(fast, x)
    checkpoint(again, x, use_reentrant=False).square().sum().backward()
    with group(tmp_path):
        parallel = nn.parallel.DistributedDataParallel(optimize_training(copy.deepcopy(patched)))
        parallel(x).square().sum().backward()
    for one, two, three in zip(fast.parameters(), again.parameters(), parallel.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(three.grad, one.grad, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        assert torch.equal(fast(x), parallel.module(x))
