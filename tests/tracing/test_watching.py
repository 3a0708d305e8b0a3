"""A run is watched from outside: what flows where, whatever the code does with its tensors."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import GeneratorType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.distributions import Normal

from attn_inject import attach, find_sites
from attn_inject.tracing.inputs import Inputs
from attn_inject.tracing.leaves import Leaves
from attn_inject.tracing.nodes import block_of, returned_by, value_of
from attn_inject.tracing.spelled import made_from
from attn_inject.tracing.watching import Watch
from attn_inject.tracing.writes import written

from ..toys import Residual, conv, gates_run


class Net(nn.Module):
    """A stem, a body, and a forward of the test's."""

    def __init__(self, run: Callable[[Net, torch.Tensor], Any]) -> None:
        super().__init__()
        self.stem, self.body = conv(3, 16), nn.Sequential(conv(16, 16), nn.ReLU(inplace=True), conv(16, 16))
        self.run = run
        self.grid: Any = None

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self, x)


def _watched(run: Callable[[Net, torch.Tensor], Any]) -> Watch:
    watch = Watch(Net(run), Leaves(), Inputs((torch.rand(2, 3, 8, 8),)), "eval")
    with torch.no_grad():
        watch.run()
    return watch


def _sources(node: fx.Node) -> set[fx.Node]:
    """All nodes that a node comes from."""
    found: set[fx.Node] = set()
    pending = [node]
    while pending:
        new = [source for source in pending.pop().all_input_nodes if source not in found]
        found.update(new)
        pending += new
    return found


def _flow(run: Callable[[Net, torch.Tensor], Any]) -> tuple[fx.Node, set[fx.Node]]:
    """(the output's node, what reaches it)."""
    output = next(iter(reversed(_watched(run).notes.graph.nodes)))
    return output, _sources(output)


def test_nodes_are_calls_of_layers_and_functions_in_the_blocks_that_make_them() -> None:
    graph = _watched(lambda m, x: torch.relu(m.body(m.stem(x)) - 1.0)).notes.graph
    nodes = [(node.op, getattr(node.target, "__name__", node.target), block_of(node)) for node in graph.nodes]
    assert nodes == [
        ("placeholder", "x", ""),
        ("call_module", "stem", ""),
        ("call_module", "body.0", "body"),
        ("call_module", "body.1", "body"),
        ("call_module", "body.2", "body"),
        ("call_method", "sub", ""),
        ("call_function", "relu", ""),
        ("output", "output", ""),
    ]
    by_target = {node.target: node for node in graph.nodes}
    assert returned_by(by_target["body.2"]) == (("body", 0),)
    assert value_of(by_target["body.2"]).shape == (2, 16, 8, 8)
    assert value_of(by_target["body.2"]).is_meta


@pytest.mark.parametrize(
    "write",
    [
        lambda x, y: x.add_(y),
        lambda x, y: x[:, :8].mul_(y[:, :8]),
        lambda x, y: x.view(-1)[:8].copy_(y.view(-1)[:8]),
        lambda x, y: x.__setitem__(0, y[0]),
        lambda x, y: torch.add(x, y, out=x),
        lambda x, y: setattr(x, "data", y),
        lambda x, y: x.unbind(1)[0].add_(y[:, 0]),
    ],
)
def test_what_is_written_in_place_is_in_the_value_from_there_on(write: Callable[..., Any]) -> None:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        first, other = m.stem(x), m.body(m.stem(x))
        write(first, other)
        return first * 1

    _, reached = _flow(run)
    assert any(node.target == "body.2" for node in reached)


def test_a_layer_that_writes_into_what_it_is_given_gives_the_new_value() -> None:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        m.body[1](x)
        return x

    output, _ = _flow(run)
    assert output.args[0].target == "body.1"


@pytest.mark.parametrize(
    "another",
    [
        lambda x: x.as_subclass(torch.nn.Buffer),
        lambda x: nn.Parameter(x),
        lambda x: torch.from_numpy(x.detach().numpy()),
        lambda x: torch.utils.dlpack.from_dlpack(x.detach()),
        lambda x: x.contiguous(),
        lambda x: nn.Identity()(x),
    ],
)
def test_the_same_numbers_by_another_name_are_the_same_value(another: Callable[[torch.Tensor], torch.Tensor]) -> None:
    output, _ = _flow(lambda m, x: another(m.stem(x)) * 2)
    (product,) = output.all_input_nodes
    (source,) = product.all_input_nodes
    # Not `made_from`: what that does to the numbers is not known.
    assert getattr(source.target, "__name__", source.target) in ("stem", "detach", "contiguous", "lift_fresh")
    assert any(node.target == "stem" for node in (source, *_sources(source)))


@pytest.mark.parametrize(
    "outside",
    [
        lambda x: torch.from_numpy(np.tanh(x.detach().numpy())),
        lambda x: torch.tensor(np.tanh(x.detach().numpy())),
        lambda x: torch.tensor(x.tolist()),
    ],
)
def test_what_is_made_of_arrays_and_numbers_may_come_of_those_that_left(outside: Callable[..., torch.Tensor]) -> None:
    _, reached = _flow(lambda m, x: outside(m.stem(x)) * 2 + 1)
    assert any(node.target == "stem" for node in reached)


def test_what_the_model_held_before_is_a_constant_all_the_same() -> None:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        m.stem(x).numpy()
        return x + m.grid

    net = Net(run)
    net.grid = torch.ones(3, 8, 8)
    watch = Watch(net, Leaves(), Inputs((torch.rand(2, 3, 8, 8),)), "eval")
    with torch.no_grad():
        watch.run()
    assert list(watch.notes.constants.values()) == [net.grid]


def test_inference_tensors_do_not_say_that_they_were_written() -> None:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            first, other = m.stem(x), m.body(m.stem(x))
            first[:, :8] += other[:, :8]
            return first

    _, reached = _flow(run)
    assert any(node.target == "body.2" for node in reached)


@pytest.mark.parametrize(
    "hide",
    [
        torch.vmap(lambda image: image * 2),
        torch.func.grad(lambda x: (x**2).sum()),
        torch.jit.script(nn.Tanh()),
        torch.ops.aten.tanh.default,
    ],
)
def test_what_no_function_was_called_for_is_made_from_what_went_into_it(hide: Callable[..., Any]) -> None:
    output, reached = _flow(lambda m, x: hide(m.stem(x)) + 1)
    assert any(node.target == "stem" for node in reached)
    assert value_of(output.all_input_nodes[0]).shape == (2, 16, 8, 8)


def test_a_weight_of_the_models_own_is_read_by_its_name_and_other_tensors_are_constants() -> None:
    other = torch.ones(16, 1, 1)
    watch = _watched(lambda m, x: m.stem(x) * m.stem.bias.view(-1, 1, 1) + other)
    read = [node.target for node in watch.notes.graph.nodes if node.op == "get_attr"]
    assert read == ["stem.bias", "_eval_constant_0"]
    assert watch.notes.constants == {"_eval_constant_0": other}


class Slotted:
    __slots__ = ("__maps", "number", "unset")

    def __init__(self, maps: torch.Tensor, number: int) -> None:
        self.__maps, self.number = maps, number


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda x: SimpleNamespace(logits=x, n=3),
        lambda x: Normal(x, torch.ones_like(x)),
        lambda x: {"maps": [x, (x + 1,)]},
        lambda x: SimpleNamespace(inner=SimpleNamespace(maps=[x])),
        lambda x: Slotted(x, 1),
        lambda x: {x, x + 1},
        lambda x: deque([x]),
        lambda x: {"maps": x}.values(),
        lambda x: iter([x]),
        lambda x: (part for part in x.chunk(2, 1)),
        lambda x: [zip("ab", x.chunk(2, 1), strict=True)],
    ],
)
def test_outputs_may_be_objects_of_any_class(wrapped: Callable[[torch.Tensor], Any]) -> None:
    _, reached = _flow(lambda m, x: wrapped(m.stem(x)))
    assert any(node.target == "stem" for node in reached)


def test_the_code_of_a_generator_runs_when_it_is_read() -> None:
    class Levels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Residual(conv(16, 16), nn.ReLU(), conv(16, 16)) for _ in range(2))

        def forward(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
            for block in self.blocks:
                x = block(x)
                yield x

    model, x = Levels().eval(), torch.rand(2, 16, 8, 8)
    sites = find_sites(model, input_size=(16, 8, 8))
    assert [site.block for site in sites] == ["blocks.0", "blocks.1"]
    assert "hands on an object of class 'generator', which no graph holds" in sites.recorded
    attached = attach(model, "se", input_size=(16, 8, 8), reduction=4, init="identity").eval()
    assert isinstance(attached(x), GeneratorType)
    assert all(map(torch.equal, attached(x), model(x)))
    assert "it gives no tensors to compare" not in str(attached.injection)


def test_results_of_several_parts_are_taken_apart() -> None:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        values, _ = m.stem(x).max(1)
        first, second = m.stem(x).chunk(2, 1)
        return values + (first * second).sum(1)

    _, reached = _flow(run)
    assert [node.args[1] for node in reached if getattr(node.target, "__name__", "") == "getitem"].count(0) == 2


def test_an_error_that_the_code_catches_leaves_the_frames_as_they_were() -> None:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        for fails in (m.body, m.stem):
            with contextlib.suppress(RuntimeError):
                fails(x.new_ones(1))
        return m.stem(x) + 1

    _, reached = _flow(run)
    assert {block_of(node) for node in reached} == {""}
    assert any(node.target == "stem" for node in reached)


def test_other_threads_and_the_time_after_are_not_watched() -> None:
    inner, runs = conv(3, 3), threading.Event()

    def elsewhere() -> None:
        runs.wait()
        inner(torch.rand(1, 3, 4, 4)) + 1

    thread = threading.Thread(target=elsewhere)
    thread.start()

    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        runs.set()
        thread.join()
        return m.stem(x)

    call = nn.Module.__call__
    watch = _watched(run)
    assert nn.Module.__call__ is call
    assert [node.op for node in watch.notes.graph.nodes] == ["placeholder", "call_module", "output"]


def test_two_at_once_wait_for_each_other() -> None:
    call, started = nn.Module.__call__, threading.Event()

    def slow(m: Net, x: torch.Tensor) -> torch.Tensor:
        started.set()
        time.sleep(0.1)
        return m.stem(x)

    first = threading.Thread(target=_watched, args=[slow])
    first.start()
    started.wait()
    _watched(lambda m, x: m.stem(x))
    first.join()
    assert nn.Module.__call__ is call


FEATURES: list[torch.Tensor] = []


def test_what_code_collects_beside_the_model_is_taken_back() -> None:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        FEATURES.append(m.stem(x))
        return FEATURES[-1]

    FEATURES[:] = [torch.zeros(1)]
    _watched(run)
    assert len(FEATURES) == 1


def test_a_run_leaves_weights_statistics_and_generators_alone() -> None:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            m.stem.weight.mul_(2)
        return m.stem(x) + torch.rand(1)

    net = Net(run)
    net.stem.register_buffer("count", torch.zeros(1))
    weights, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    Watch(net, Leaves(), Inputs((torch.rand(2, 3, 8, 8, generator=torch.Generator()),)), "eval").run()
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return grad, grad


def _differentiated(x: torch.Tensor) -> torch.Tensor:
    x = x if x.requires_grad else x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((x**2).sum(), x)
    return x - 0.1 * gradient


@pytest.mark.parametrize(
    "join",
    [
        lambda x, y: torch.add(x, y, out=torch.empty_like(x)) if x.mean() > -1e9 else x,
        lambda x, y: torch.lerp(x, y, 0.5) if x.mean() > -1e9 else x,
        lambda x, y: _Sum.apply(x, y) if x.mean() > -1e9 else x,
        lambda x, y: _differentiated(x + y),
        lambda x, y: y.add_(x) if y.mean() > -1e9 else x,
    ],
)
@pytest.mark.slow
def test_blocks_are_found_and_gated_where_no_graph_can_be_had(join: Callable[..., torch.Tensor]) -> None:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        return join(x, m.body(x))

    torch.manual_seed(0)
    net, image = Net(run).eval(), torch.rand(2, 3, 16, 16)
    (site,) = find_sites(net, input_size=16)
    assert (site.block, site.node) == ("", "body_2")
    same = attach(net, "se", reduction=4, init="identity", input_size=16).eval()
    gated = attach(net, "eca", input_size=16).eval()
    for model in (net, same, gated):
        for parameter in model.parameters():
            parameter.requires_grad = False
    assert torch.equal(same(image), net(image))
    assert not torch.equal(gated(image), net(image))
    assert gates_run(same, image, gradients=True) == gates_run(gated, image, gradients=True) == 1


def test_the_functions_of_a_recording_say_what_flows_where() -> None:
    one, other = torch.ones(2), torch.zeros(2)
    assert written(one, other) is one
    with pytest.raises(NotImplementedError, match="a recording is not run: 2 values"):
        made_from(one, other)
