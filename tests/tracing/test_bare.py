"""Code that calls `block.forward(x)` by its name: the block's sites are the block's, though no hook hears of it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn

from attn_inject import PlanError, attach, find_sites, inject
from attn_inject.tracing.bare import BareCalls


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.act = nn.ReLU()

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x + self.branch(x))


class Doubled(Block):
    """A class whose forward goes on with that of its base, which is no call of another module."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class OnNumbers(Block):
    """Has no graph: numbers of the data are read. Its branch is called bare, too."""

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        return self.body.forward(x) * (1 + float(x.detach().numpy().mean()))


class Called(Block):
    """A class whose own `__call__` is all there is (pytorchcv's TResUnit)."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x + self.branch(x))

    forward = nn.Module.forward


class CalledAgain(Called):
    """Its base has the code."""


class CalledOnNumbers(Called):
    """Has no graph; a `__call__` too."""

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) * (1 + float(x.detach().numpy().mean()))


class CalledInOne(Called):
    """Its own code makes what is gated, where no child does by itself."""

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.body:
            x = layer(x)
        return x


class CalledInOneOnNumbers(CalledInOne):
    def branch(self, x: torch.Tensor) -> torch.Tensor:
        return super().branch(x) * (1 + float(x.detach().numpy().mean()))


class GoesOn(Block):
    """A `__call__` that goes on to torch's, of which hooks hear."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().__call__(x)


class GoesToForward(Block):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.forward(x)


class Net(nn.Module):
    def __init__(self, kind: type[Block] = Block) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList([kind(), kind()])
        self.head = nn.Linear(8, 4)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block.forward(x)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head.forward(self.body(self.stem.forward(x)).mean((2, 3)))


class Twice(Net):
    """Each block is called in both ways."""

    def body(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block.forward(block(x))
        return x


class ByCalls(Net):
    def body(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net.forward(x)


def _own(net: Net) -> Net:
    """A block with a forward of its own, in its attributes."""
    block = net.blocks[0]
    own = block.forward
    block.forward = lambda x: 3 * own(x)
    return net


NETS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "plain": (Net, "", 1),
    "super": (lambda: Net(Doubled), "", 1),
    "both ways": (Twice, "", 2),
    "wrapped": (Wrapped, "net.", 1),
    "no graph": (lambda: Net(OnNumbers), "", 1),
    "own forward": (lambda: _own(Net()), "", 1),
    "own call": (lambda: ByCalls(Called), "", 1),
    "own call of a base": (lambda: ByCalls(CalledAgain), "", 1),
    "own call, no graph": (lambda: ByCalls(CalledOnNumbers), "", 1),
    "own call goes on": (lambda: ByCalls(GoesOn), "", 1),
    "own call goes to forward": (lambda: ByCalls(GoesToForward), "", 1),
}
NO_GRAPH = [name for name in NETS if "no graph" in name]


@pytest.mark.parametrize("name", NETS)
def test_sites_are_those_of_the_blocks(name: str) -> None:
    make, home, calls = NETS[name]
    model = make()
    before = [(vars(module).get("forward"), type(module).__call__) for module in model.modules()]
    found = find_sites(model, example_inputs=torch.randn(2, 3, 16, 16))
    assert [(site.block, site.calls) for site in found] == [
        (f"{home}blocks.0", calls), (f"{home}blocks.1", calls)
    ]  # fmt: skip
    assert [(vars(module).get("forward"), type(module).__call__) for module in model.modules()] == before


@pytest.mark.parametrize("verb", [inject, attach])
@pytest.mark.parametrize("name", [name for name in NETS if name not in (*NO_GRAPH, "own forward")])
@pytest.mark.slow
def test_patched(verb: Any, name: str) -> None:
    make, home, _ = NETS[name]
    model = make().eval()
    x = torch.randn(2, 3, 16, 16)
    patched = verb(model, "eca", example_inputs=x).eval()
    assert torch.equal(verb(model, "eca", example_inputs=x, init="identity").eval()(x), model(x))
    assert not torch.equal(patched(x), model(x))
    for number in (0, 1):
        gate = patched.get_submodule(f"{home}blocks.{number}.eca")
        assert gate is not None
        patched(x).sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in gate.parameters())


@pytest.mark.parametrize("kind", [CalledInOne, CalledInOneOnNumbers])
def test_attach_says_so_where_no_forward_runs(kind: type[Block]) -> None:
    with pytest.raises(PlanError, match="own __call__"):
        attach(ByCalls(kind), "eca", example_inputs=torch.randn(2, 3, 16, 16))


def test_attach_leaves_out_what_runs_no_forward() -> None:
    model, x = ByCalls(CalledInOne).eval(), torch.randn(2, 3, 16, 16)
    model.blocks.append(Block())
    attached = attach(model.eval(), "eca", example_inputs=x, init="identity").eval()
    assert [insertion.module for insertion in attached.injection.plan.insertions] == ["blocks.2.eca"]
    assert sum("own __call__" in note for note in attached.injection.plan.notes) == 2
    assert torch.equal(attached(x), model(x))


def test_attach_where_there_is_no_graph() -> None:
    """The gate is put where a call is heard of: `body`, called bare, is not taken for it."""
    model = Net(OnNumbers).eval()
    x, other = torch.randn(2, 3, 16, 16), torch.randn(3, 3, 24, 16)
    attached = attach(model, "eca", example_inputs=x, init="identity").eval()
    assert torch.equal(attached(other), model(other))
    ran = [0, 0]
    for number in (0, 1):

        def count(*_: Any, number: int = number) -> None:
            ran[number] += 1

        attached.get_submodule(f"blocks.{number}.eca").register_forward_hook(count)
    attached(other)
    assert ran == [1, 1]


def test_hooks_do_not_hear_of_them() -> None:
    """As in the model: what a hook on such a block would change stays as it is."""
    model = Net().eval()
    model.blocks[0].register_forward_hook(lambda _module, _args, out: out * 0)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(inject(model, "eca", example_inputs=x, init="identity").eval()(x), model(x))


def test_what_else_code_asks_of_a_forward() -> None:
    """Its file's names, by which functions of timm's stay whole; its signature; a copy of its own."""
    graph = inject(timm.create_model("resnet50_clip", pretrained=False), "eca").graph
    assert [node for node in graph.nodes if getattr(node.target, "__name__", "") == "resample_abs_pos_embed"]
    net = Net()
    with BareCalls(lambda *_: None).told(net, but_in=lambda module, _: not isinstance(module, Block)):
        block: Any = net.blocks[0]
        assert list(inspect.signature(block.forward).parameters) == ["x"]
        assert block.forward.__func__ is Block.forward
        assert block.forward(torch.zeros(1, 8, 4, 4)) is None
        other = copy.deepcopy(block)
    assert other.forward.__self__ is other
    assert other.forward(torch.zeros(1, 8, 4, 4)).shape == (1, 8, 4, 4)


def test_an_error_leaves_nothing() -> None:
    """A call that raises before the forward runs, and one within it."""
    net, told = Net(), []

    def called(module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        told.append(module)
        return forward(*args, **kwargs)

    bare = BareCalls(called)
    with bare.told(net, but_in=lambda module, _: not isinstance(module, Block)):
        with pytest.raises(RuntimeError), bare.expected(net.blocks[0]):
            raise RuntimeError
        net.blocks[0].forward(torch.zeros(1, 8, 4, 4))
        with bare.expected(net.blocks[1]):
            net.blocks[1].forward(torch.zeros(1, 8, 4, 4))
        with pytest.raises(RuntimeError):
            net.blocks[1].forward(torch.zeros(1, 3, 4, 4))
    assert told == [net.blocks[0], net.blocks[1]]
    assert not any("forward" in vars(module) for module in net.modules())
