"""Hooks that are part of what a model computes are read; those that only look on are not, and hear nothing of it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from attn_inject import RewriteError, attach, find_sites, inject, load, save

from .. import toys

SIZE = (16, 8, 8)
IMAGE = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))


class OwnConv(nn.Module):
    """A convolution that no class of torch's is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 16, 3, 3) / 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight, padding=1)


class Branch(nn.Module):
    def __init__(self, prepared: Callable[[nn.Module], Any] = lambda _: None) -> None:
        super().__init__()
        self.first, self.second = OwnConv(), OwnConv()
        for each in (self.first, self.second):
            prepared(each)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(torch.relu(self.first(x)))
        return out


class Net(nn.Module):
    def __init__(self, prepared: Callable[[nn.Module], Any] = lambda _: None, *, decides: bool = False) -> None:
        super().__init__()
        self.blocks = nn.Sequential(toys.Residual(Branch(prepared)), toys.Residual(Branch(prepared)))
        self.decides = decides

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.decides and x.sum() > 1e9:
            x = -x
        out: torch.Tensor = self.blocks(x)
        return out.relu()


class Centred(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight - weight.mean((1, 2, 3), keepdim=True)


def doubled_in_train_mode(module: nn.Module, _args: Any, out: torch.Tensor) -> torch.Tensor | None:
    return out * 2 if module.training else None


def doubled_in_place(_module: nn.Module, _args: Any, out: torch.Tensor) -> None:
    out.mul_(2)


def scaled(_module: nn.Module, args: Any, kwargs: Any) -> Any:
    return (args[0] * 3,), kwargs


PREPARED: dict[str, Callable[[Any], Any]] = {
    "gives": lambda m: m.register_forward_hook(lambda _module, _args, out: out * 2),
    "gives in train mode": lambda m: m.register_forward_hook(doubled_in_train_mode),
    "writes": lambda m: m.register_forward_hook(doubled_in_place),
    "gives arguments": lambda m: m.register_forward_pre_hook(scaled, with_kwargs=True),
    "weight norm": nn.utils.weight_norm,
    "spectral norm": nn.utils.spectral_norm,
    "pruned": lambda m: prune.random_unstructured(m, "weight", 0.3),
    "weight norm, as a parametrization": parametrizations.weight_norm,
    "spectral norm, as a parametrization": parametrizations.spectral_norm,
    "a parametrization of its own": lambda m: parametrize.register_parametrization(m, "weight", Centred()),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("how", PREPARED)
@pytest.mark.slow
def test_what_changes_a_module_that_the_graph_runs_through_is_in_the_graph(how: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net(PREPARED[how])
    assert [site.block for site in find_sites(model, input_size=SIZE)] == ["blocks.0", "blocks.1"]
    patched = inject(model, "se", input_size=SIZE, reduction=4, init="identity")
    attached = attach(model, "se", input_size=SIZE, reduction=4, init="identity")
    assert patched.injection.not_kept == ()
    assert [toys.gates_run(form.eval(), IMAGE) for form in (patched, attached)] == [2, 2]
    for training in (False, True):
        expected, state = model.train(training), {name: held.clone() for name, held in model.state_dict().items()}
        given = expected(IMAGE)
        for form in (patched, attached):
            model.load_state_dict(state)
            assert torch.equal(form.train(training)(IMAGE), given)
        model.load_state_dict(state)
    patched.train()(IMAGE).square().sum().backward()
    assert [name for name, weight in patched.named_parameters() if weight.grad is None] == []
    save(patched, tmp_path / "net.pt")
    again = load(tmp_path / "net.pt", model=Net(PREPARED[how]))
    assert toys.gates_run(again.eval(), IMAGE) == 2
    assert torch.equal(again.eval()(IMAGE), patched.eval()(IMAGE))


def test_a_skip_add_in_a_hook_is_a_site() -> None:
    model = nn.Sequential(Branch(), Branch(), nn.ReLU())
    for block in model[:2]:
        block.register_forward_hook(lambda _module, args, out: torch.relu(args[0] + out))
    assert [site.block for site in find_sites(model, input_size=SIZE)] == ["0", "1"]
    for patched in (
        inject(model, "se", input_size=SIZE, reduction=4, init="identity"),
        attach(model, "se", input_size=SIZE, reduction=4, init="identity"),
    ):
        assert torch.equal(patched.eval()(IMAGE), model.eval()(IMAGE))
        assert toys.gates_run(patched, IMAGE) == 2


class Owner(nn.Module):
    """What trains a model, as a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []
        self.last: Any = None
        self.heard = 0

    def hook(self, _module: nn.Module, _args: Any, out: Any) -> None:
        self.seen.append(out)
        self.last = out
        self.heard += 1


@pytest.mark.parametrize("decides", [False, True])
def test_those_that_look_on_hear_nothing(decides: bool) -> None:
    model = Net(decides=decides)
    owner, counted, words = Owner(), Counter[str](), ["before"]
    times = 0

    def counting(_module: nn.Module, _args: Any) -> None:
        nonlocal times
        times += 1
        counted["calls"] += 1
        words.append("before")

    def noisy(_module: nn.Module, _args: Any, out: torch.Tensor) -> torch.Tensor:
        words.append("after")
        return out * 2

    model.blocks[0].register_forward_hook(owner.hook)
    model.blocks[1].register_forward_pre_hook(counting)
    model.blocks[1].branch.register_forward_hook(noisy)
    attached = attach(model, "se", input_size=SIZE, reduction=4, init="identity")
    assert len(find_sites(model, input_size=SIZE)) == 2
    if not decides:
        assert inject(model, "se", input_size=SIZE, reduction=4).injection.not_kept == (
            "forward hook on blocks.0: register it again, on a module that the graph calls",
            "forward pre-hook on blocks.1: register it again, on a module that the graph calls",
        )
    assert (owner.seen, owner.last, owner.heard, times, dict(counted), words) == ([], None, 0, 0, {}, ["before"])
    assert torch.equal(attached.eval()(IMAGE), model.eval()(IMAGE))
    assert (owner.heard, times, counted["calls"], words) == (2, 2, 2, ["before", *["before", "after"] * 2])


def test_hooks_of_the_model_itself_run_around_the_patched_one_too() -> None:
    model = Net()
    model.register_forward_pre_hook(lambda _module, args: (args[0] * 3,))
    model.register_forward_hook(lambda _module, _args, out: out.softmax(1))
    for patched in (
        inject(model, "se", input_size=SIZE, reduction=4, init="identity"),
        attach(model, "se", input_size=SIZE, reduction=4, init="identity"),
    ):
        assert torch.equal(patched.eval()(IMAGE), model.eval()(IMAGE))


def test_a_hook_that_does_not_run_on_other_numbers_is_left_out() -> None:
    def demanding(_module: nn.Module, _args: Any, out: torch.Tensor) -> torch.Tensor:
        raise ValueError(f"not {tuple(out.shape)}")

    model = Net()
    handle = model.blocks[0].register_forward_hook(demanding)
    patched = inject(model, "se", input_size=SIZE, reduction=4, init="identity")
    assert patched.injection.not_kept[0].startswith("forward hook on blocks.0")
    handle.remove()
    assert torch.equal(patched.eval()(IMAGE), model.eval()(IMAGE))


def test_hooks_that_go_together_are_refused_and_stay_under_attach() -> None:
    kept: list[torch.Tensor] = []
    model = Net()
    model.blocks[0].branch.register_forward_pre_hook(lambda _module, args: kept.append(args[0]))
    model.blocks[0].branch.register_forward_hook(lambda _module, _args, out: out - kept.pop() / 2)
    with pytest.raises(RewriteError, match=r"hooks that go together change what it gives: use attach\(\)"):
        inject(model, "se", input_size=SIZE, reduction=4)
    attached = attach(model, "se", input_size=SIZE, reduction=4, init="identity")
    assert torch.equal(attached.eval()(IMAGE), model.eval()(IMAGE))
    assert kept == []


def test_a_trainer_that_holds_the_model_is_not_copied() -> None:
    class Trainer(Owner):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()
            self.net.blocks[0].register_forward_hook(self.hook)

        def __deepcopy__(self, _memo: Any) -> Any:
            raise AssertionError("it holds data and files")

    trainer = Trainer()
    attached = attach(trainer.net, "se", input_size=SIZE, reduction=4)
    assert (trainer.heard, trainer.last) == (0, None)
    attached(IMAGE)
    assert trainer.heard == 1


def test_numbers_that_an_onlooker_writes_in_place_are_put_back() -> None:
    model, mean, counts, beside = Net(), torch.zeros(16), np.zeros(1), nn.BatchNorm2d(16)
    gradients: list[torch.Tensor] = []

    class Watcher:
        def __init__(self) -> None:
            self.mean = torch.zeros(16)

        def hook(self, _module: nn.Module, _args: Any, out: torch.Tensor) -> None:
            self.mean.mul_(0.9).add_(out.detach().mean((0, 2, 3)))

    def writing(_module: nn.Module, _args: Any, out: torch.Tensor) -> None:
        mean.add_(out.detach().mean((0, 2, 3)))
        counts[0] += 1
        beside(out.detach())
        if out.requires_grad:
            out.register_hook(gradients.append)

    watcher = Watcher()
    model.blocks[0].register_forward_hook(writing)
    model.blocks[1].register_forward_hook(watcher.hook)
    for form in (inject, attach):
        form(model, "se", input_size=SIZE, reduction=4)
    assert not mean.any()
    assert not watcher.mean.any()
    assert not counts.any()
    assert not beside.running_mean.any()
    assert gradients == []


def test_a_hook_is_asked_on_each_module_that_it_is_on() -> None:
    model: Any = Net()

    def scaling(module: Any, _args: Any, out: torch.Tensor) -> torch.Tensor | None:
        return out * module.scale if module.scale is not None else None

    model.blocks[0].scale = None
    model.blocks[0].register_forward_hook(scaling)
    model.blocks[1] = copy.deepcopy(model.blocks[0])
    model.blocks[1].scale = 3.0
    patched = inject(model, "se", input_size=SIZE, reduction=4, init="identity")
    assert torch.equal(patched.eval()(IMAGE), model.eval()(IMAGE))


def test_a_hook_may_run_other_parts_of_the_model() -> None:
    torch.manual_seed(0)
    model: Any = Net()
    model.adapter = nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16))
    model.blocks[0].register_forward_hook(lambda _module, _args, out: out + model.adapter(out))
    for form in (inject, attach):
        patched = form(model, "se", input_size=SIZE, reduction=4, init="identity")
        for training in (False, True):
            state = {name: held.clone() for name, held in model.state_dict().items()}
            expected = model.train(training)(IMAGE)
            model.load_state_dict(state)
            assert torch.equal(patched.train(training)(IMAGE), expected)
            model.load_state_dict(state)
