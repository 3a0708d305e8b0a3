"""Factories and draws: what a graph makes anew each time, and what it must not hold."""

from __future__ import annotations

import copy
import pickle
import random
import threading
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn, ones
from torch._dynamo import trace_rules

from attn_inject import GuardError, TraceError, attach, inject
from attn_inject.tracing.shapes import trace_at_a_size

from ..sites.graphs import Net
from ..toys import conv


def _net(run: Any) -> Net:
    return Net(run, conv=conv(3, 4))


@pytest.mark.parametrize(
    ("draw", "source"),
    [
        (random.random, "Python's random"),
        (lambda: float(np.random.rand()), "numpy.random"),  # noqa: NPY002  # what models do
        (lambda: float(torch.empty(1).uniform_()), "torch"),
    ],
)
def test_a_coin_toss_is_not_frozen(draw: Any, source: str) -> None:
    net = _net(lambda m, x: m.conv(x) if draw() < 2 else x)
    with pytest.raises(TraceError, match=rf"draws from {source} in its forward|draws numbers from {source} in its"):
        trace_at_a_size(net, input_size=8)


class DropsByHand(nn.Module):
    """A layer that stays whole draws anew whenever it runs."""

    traced_whole = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(random.random() + np.random.rand() < 2)  # noqa: NPY002


def test_what_stays_whole_may_draw() -> None:
    def states() -> tuple[Any, ...]:
        legacy: Any = np.random.get_state()  # noqa: NPY002
        return random.getstate(), legacy[1].tolist(), torch.get_rng_state().tolist()

    net = Net(lambda m, x: m.drop(m.conv(x)), conv=conv(3, 4), drop=DropsByHand())
    before = states()
    graph = trace_at_a_size(net, input_size=8).graphs["train"]
    assert [node.target for node in graph.nodes if node.op == "call_module"] == ["conv", "drop"]
    assert states() == before


def test_torchs_draws_are_nodes() -> None:
    net = _net(lambda m, x: m.conv(x) * torch.rand(1) + torch.randn(x.size(0), 1, 1, 1))
    before = torch.get_rng_state()
    graph = trace_at_a_size(net, input_size=8).graphs["train"]
    assert torch.equal(torch.get_rng_state(), before)
    assert [node.target for node in graph.nodes if node.op == "call_function"][:1] == [torch.rand]


def test_stochastic_depth_by_hand_stays_random() -> None:
    class Drop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = conv(3, 16), nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            keep = torch.rand(x.shape[0], 1, 1, 1) < 0.5 if self.training else 1
            return x + self.body(x) * keep

    model = Drop()
    patched = inject(model, "se", reduction=4, init="identity", input_size=16)
    image = torch.randn(8, 3, 16, 16)
    given: list[torch.Tensor] = []
    for net in (model, patched, patched):
        torch.manual_seed(len(given) // 2)
        given.append(net.train()(image))
    assert torch.equal(given[0], given[1])
    assert not torch.equal(given[1], given[2])


class Masking(nn.Module):
    """Fills with the least number of the map's type, whatever that comes to be."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 16)
        self.branch = nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x = x + self.branch(x)
        least = torch.finfo(x.dtype).min / torch.iinfo(x.argmax().dtype).max
        return x.masked_fill(x < 0, least)


def test_the_limits_of_a_type_are_those_of_the_type_that_runs() -> None:
    model = Masking().eval()
    patched = inject(model, "eca", init="identity", input_size=8)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
        assert torch.equal(patched.eval().to(dtype)(x), model.to(dtype)(x))
    assert torch.finfo is FINFO


FINFO = torch.finfo


class Checking(Masking):
    """Asserts with torch's own functions, which take truth values and tensors only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch._check_with(ValueError, x.shape[2] % 2 == 0, lambda: "odd")
        torch._check(cond=x.shape[1] == 3)
        y = self.conv(x)
        return y + self.branch(y)


class CheckingData(Masking):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        torch._check_tensor_all(y == y, lambda: "not a number")
        return y


def test_what_torch_checks_of_sizes_is_a_guard_and_of_data_has_no_graph() -> None:
    before = torch._check_with, torch._check
    patched = inject(Checking().eval(), "eca", input_size=8)
    assert {guard.outcome for guard in patched.injection.guards} == {"True"}
    with pytest.raises(GuardError, match=r"x.shape\[2\] % 2 == 0"):
        patched.eval()(torch.randn(1, 3, 7, 8))
    with pytest.raises(TraceError, match=r"stopped at .*_check_with.*\(odd\)"):
        inject(Checking(), "eca", input_size=(7, 8))
    with pytest.raises(TraceError, match=r"attach\(\) needs no graph"):
        inject(CheckingData().eval(), "eca", input_size=8)
    model: Any = CheckingData().eval()
    attached = attach(model, "eca", init="identity", input_size=8)
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(attached(x), model(x))
    assert (torch._check_with, torch._check) == before


@pytest.mark.parametrize(
    "made",
    [
        lambda _, n, h: ones(n, 1, h, 3),
        lambda m, n, h: m.own(n, 1, h, 3),
        lambda _, n, h: torch.Tensor(n, 1, h, 3).fill_(1),
        lambda _, n, h: torch.Tensor([n, h]).sum(),
    ],
)
def test_factories_by_any_name_and_tensors_by_their_class_are_of_the_sizes_that_come(made: Any) -> None:
    net = _net(lambda m, x: m.conv(x) * (1 + made(m, x.shape[0], x.shape[2]).mean()))
    vars(net)["own"] = torch.ones
    patched = inject(net.eval(), "eca", kinds=("stage",), input_size=8, init="identity")
    for size in ((2, 3, 8, 8), (3, 3, 5, 5)):
        x = torch.rand(size)
        assert torch.equal(patched.eval()(x), net(x))
    assert "__new__" not in vars(torch.Tensor)
    assert ones is torch.ones is vars(net)["own"]


def test_torch_is_as_it_was() -> None:
    before = {name: getattr(torch, name) for name in ("zeros", "rand", "tensor", "empty", "is_tensor")}
    of_script = torch.jit.isinstance
    with pytest.raises(TraceError):
        trace_at_a_size(_net(lambda m, x: m.missing(x)), input_size=8)
    assert all(getattr(torch, name) is function for name, function in before.items())
    assert torch.jit.isinstance is of_script
    with torch.device("meta"):
        assert all(made.is_meta for made in (torch.empty(1), torch.zeros(1), torch.rand(1)))


class Round(torch.autograd.Function):
    """Rounds, with a gradient all the same: a straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, step: float) -> torch.Tensor:
        return (x / step).round() * step

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return grads[0] * 7, None


class Rounding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = conv(3, 16), nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = Round.apply(self.stem(x), 0.5)
        return x + self.body(x)


def test_an_autograd_function_stays_whole_with_its_backward() -> None:
    torch.manual_seed(0)
    model = Rounding()
    patched = inject(model, "se", reduction=4, init="identity", input_size=16)
    image = torch.randn(2, 3, 16, 16)
    for net in (model, patched):
        net(image).sum().backward()
    grads = [net.get_parameter("stem.weight").grad for net in (model, patched)]
    assert torch.equal(*grads)
    for other in (copy.deepcopy(patched), pickle.loads(pickle.dumps(patched))):
        assert torch.equal(other(image), patched(image))
    compiled = torch.compile(patched, backend="eager", fullgraph=True)
    assert torch.equal(compiled(image), patched(image))


rounded = Round.apply


class Running(torch.autograd.Function):
    """Runs a module that it is given, and lets the gradient through."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
        return module(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return grads[0], None


class Stored(Rounding):
    """Has the functions' `apply` under other names: its module's, and its own."""

    def __init__(self) -> None:
        super().__init__()
        self.run_it = Running.apply
        self.inner = conv(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.run_it(rounded(self.stem(x), 0.5), self.inner)
        return x + self.body(x)


def test_an_autograd_function_by_another_name_is_one_too() -> None:
    torch.manual_seed(0)
    model = Stored()
    apply = model.run_it
    patched = inject(model, "se", reduction=4, init="identity", input_size=16)
    image = torch.randn(2, 3, 16, 16)
    for net in (model, patched):
        net(image).sum().backward()
    assert torch.equal(patched(image), model(image))
    grads = [net.get_parameter("stem.weight").grad for net in (model, patched)]
    assert torch.equal(*grads)
    assert grads[0].abs().sum() > 0
    assert model.run_it is apply
    assert rounded.__self__ is Round
    assert not isinstance(rounded, types.FunctionType)


def test_other_threads_draw_their_own() -> None:
    drawn: list[Any] = []

    def run(m: Any, x: Any) -> Any:
        thread = threading.Thread(target=lambda: drawn.append(torch.zeros(2)))
        thread.start()
        thread.join()
        return m.conv(x)

    graph = trace_at_a_size(_net(run), input_size=8).graphs["eval"]
    assert all(type(value) is torch.Tensor for value in drawn)
    assert [node.op for node in graph.nodes] == ["placeholder", "call_module", "output"]


def test_two_threads_trace_one_after_the_other() -> None:
    made: list[Any] = []
    nets = [_net(lambda m, x: m.conv(x) + torch.zeros(x.size(0), 4, 1, 1)) for _ in range(6)]
    zeros = torch.zeros
    threads = [threading.Thread(target=lambda net=net: made.append(trace_at_a_size(net, input_size=8))) for net in nets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.zeros is zeros
    assert [[node.name for node in trace.graphs["eval"].nodes] for trace in made] == [
        ["x", "conv", "size", "zeros", "add", "output"]
    ] * 6


def test_dynamo_knows_torchs_own_functions_after_a_trace_in_which_it_was_asked() -> None:
    """`init_process_group` has it forget them, and what is compiled in a model asks for them while that is traced."""
    net = _net(lambda m, x: torch.cat([m.conv(x)] * (1 + (nn.Module in trace_rules.get_torch_obj_rule_map())), 1))
    trace_rules.clear_lru_cache()
    trace_at_a_size(net, input_size=8)
    known = trace_rules.get_torch_obj_rule_map()
    assert {torch.cat, torch.stack, torch.zeros, torch.arange, torch.tensor} <= known.keys()
