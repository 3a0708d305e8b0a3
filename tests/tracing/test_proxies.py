"""What a model's code may ask of the values that a trace follows: each net is one question."""

from __future__ import annotations

import importlib
import math
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.autograd import Variable

from attn_inject import TraceError
from attn_inject.tracing.guards import guarded
from attn_inject.tracing.inputs import tensors_in
from attn_inject.tracing.shapes import trace_at_a_size
from attn_inject.tracing.trace import Trace, trace

from ..sites.graphs import Net
from ..toys import conv

IMAGE = (2, 3, 8, 12)
Pair = namedtuple("Pair", "left right")  # what models return


@dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


@dataclass
class Ordered(OrderedDict[str, Any]):
    """As Hugging Face's model outputs: a dataclass that is a dict."""

    logits: torch.Tensor
    hidden: torch.Tensor | None = None

    def __post_init__(self) -> None:
        super().__init__((name, value) for name, value in vars(self).items() if value is not None)


def _even(x: Any) -> Any:
    torch._assert(x.size(2) % 2 == 0, f"height {x.size(2)} is odd")


def traced(run: Callable[[Any, Any], Any], size: tuple[int, ...] = IMAGE[1:], **layers: Any) -> tuple[Net, Trace]:
    torch.manual_seed(0)
    net = Net(run, **(layers or {"conv": conv(3, 4)}))
    return net.eval(), trace_at_a_size(net, input_size=size)


def run_graph(trace: Trace, image: torch.Tensor) -> Any:
    for name, constant in trace.constants.items():
        setattr(trace.skeleton, name, constant)
    return fx.GraphModule(trace.skeleton, trace.graphs["eval"])(image)


def agrees(net: Net, trace: Trace, *size: int) -> bool:
    image = torch.randn(size or IMAGE)
    given, graph = net(image.clone()), run_graph(trace, image.clone())
    assert type(given) is type(graph)
    pairs = list(zip(tensors_in(given), tensors_in(graph), strict=True))
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)


# Nothing is decided: the graph is the model at every size.
@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: m.conv(x).view(x.size(0), -1),
        lambda m, x: m.conv(x).reshape(x.shape[0], 4, x.shape[2] * x.shape[3]),
        lambda m, x: F.interpolate(m.conv(x), size=x.shape[-2:]),
        lambda m, x: F.interpolate(m.conv(x), size=(math.ceil(x.shape[2] / 2), math.floor(x.shape[3] / 2))),
        lambda m, x: F.interpolate(m.conv(x), size=[round(n * 1.5) for n in x.shape[2:]]),
        lambda m, x: m.conv(x) + torch.zeros(x.size(0), 4, *x.shape[2:]),
        lambda m, x: m.conv(x) + torch.ones((1, 1, 1, x.size(3))),
        lambda m, x: m.conv(x) + torch.arange(x.size(3)) / x.size(3),
        lambda m, x: m.conv(x) * torch.full((x.size(0), 1, 1, 1), 2.0) + torch.linspace(0, 1, x.size(3)),
        lambda m, x: m.conv(x) + torch.tensor([x.size(2), x.size(3)]).sum(),
        lambda m, x: m.conv(x).new_zeros(x.size(0), 2),
        lambda m, x: m.conv(x).to(x.dtype).to(x.device),
        lambda m, x: m.conv(x) * math.sqrt(x.size(2)),
        lambda m, x: m.conv(x) * (divmod(x.size(3), 5)[1] + 1),
        lambda m, x: m.conv(x) if isinstance(x, torch.Tensor) else x,
        lambda m, x: m.conv(x) if torch.is_tensor(x) else x,
        lambda m, x: m.conv(x) if torch.jit.isinstance(x, torch.Tensor) else x,
        lambda m, x: m.conv(x() if callable(x) else x) if callable(m.conv) else x,
        lambda m, x: m.conv(x) if torch.jit.isinstance([x, x], list[torch.Tensor]) else x,
        lambda m, x: m.conv(torch.as_tensor(x)),
        lambda m, x: m.conv(Variable(x)) if isinstance(x, Variable) else x,
        lambda m, x: m.conv(x) + torch.autograd.Variable(torch.ones(1)),
        lambda m, x: m.conv(x) if isinstance(x.size(0), int) and isinstance(x.shape, tuple) else x,
        lambda m, x: m.conv(x) if type(x) is torch.Tensor and type(x) in (torch.Tensor, list) else x,
        lambda m, x: m.conv(x) if type(x.shape) is torch.Size and type(x.size(0)) is int else x,
        lambda m, x: m.conv(x) if isinstance(type(x), type) and issubclass(type(x), torch.Tensor) else x,
        lambda m, x: m.conv(x) if type(type(m.conv)) is type and type(nn.ReLU) == type else x,  # noqa: E721
        lambda m, x: m.conv(x) if {type: 1}[type(int)] == 1 and str(type[int]) == "type[int]" else x,
        lambda m, x: type("Doubled", (), {"of": lambda self, y: y * 2})().of(m.conv(x)),
        lambda m, x: m.conv(x) if hasattr(x, "shape") and not hasattr(x, "tensors") else x,
        lambda m, x: sum([part * 2 for part in m.conv(x).split(2, 1)]),
        lambda m, x: torch.cat(list(m.conv(x).chunk(2, dim=1))[::-1], 1),
        lambda m, x: m.conv(x).max(1).values,
        lambda m, x: {"a": m.conv(x), "b": [x, (x,)]},
        lambda m, x: Pair(m.conv(x), x),
        lambda m, x: Output(m.conv(x)),
        lambda m, x: Ordered(m.conv(x)),
        lambda m, x: Ordered(m.conv(x)).logits,
        lambda m, x: nn.ReLU()(m.conv(x)),
        lambda m, x: (_even(x), m.conv(x))[1],
        lambda m, x: nn.Sequential(m.conv, nn.ReLU())(x),
        lambda m, x: m.conv(x) * torch.ones(1)[x.size(0) * 0],
    ],
)
def test_what_stays_symbolic(run: Callable[[Any, Any], Any]) -> None:
    net, trace = traced(run)
    assert trace.any_size
    assert trace.guards == ()
    assert agrees(net, trace)
    assert agrees(net, trace, 3, 3, 10, 16)


def test_operators_that_write_in_place_do() -> None:
    def run(m: Any, x: Any) -> Any:
        kept = y = m.conv(x)
        y **= 2
        y %= 3
        y //= 0.5
        return kept

    net, trace = traced(run)
    assert agrees(net, trace)


# The code decides: right where it comes to the same, refused where it does not.
@pytest.mark.parametrize(
    ("run", "line", "outcome", "refused"),
    [
        (lambda m, x: m.conv(x) if x.size(2) % 2 == 0 else x, "x.size(2) % 2", "True", (2, 3, 9, 12)),
        (lambda m, x: m.conv(x) if x.dim() == 4 else x, "x.dim() == 4", "True", (3, 9, 12)),
        (lambda m, x: m.conv(x) if x.shape[1:2] == (3,) else x, "x.shape[1:2] == (3,)", "True", (2, 4, 8, 12)),
        (lambda m, x: m.conv(x) if x.size(3) in (8, 12) else x, "x.size(3) in (8, 12)", "False", (2, 3, 8, 8)),
        (lambda m, x: m.conv(x) if x.dtype == torch.float32 else x, "x.dtype", "True", None),
        (lambda m, x: sum(m.conv(x) for _ in range(x.size(2) // 8)), "range(x.size(2) // 8)", "1", (2, 3, 16, 12)),
        (lambda m, x: F.interpolate(m.conv(x), size=int(x.size(2) * 1.5)), "int(x.size(2) * 1.5)", "12", (2, 3, 9, 12)),
        (lambda m, x: m.conv(x) * float(x.size(2)), "float(x.size(2))", "8.0", (2, 3, 9, 12)),
        (lambda m, x: m.conv(x) * {8: 2}.get(x.size(2), 3), "get(x.size(2), 3)", "8", (2, 3, 9, 12)),
        (lambda m, x: m.conv(x) * max(x.size(2), 10), "max(x.size(2), 10)", "True", (2, 3, 11, 12)),
        (lambda m, x: sum(m.conv(image[None]) for image in x), "for image in x", "2", (3, 3, 8, 12)),
    ],
)
def test_what_is_decided_is_checked_when_the_graph_runs(
    run: Callable[[Any, Any], Any], line: str, outcome: str, refused: tuple[int, ...] | None
) -> None:
    net, trace = traced(run)
    assert agrees(net, trace)
    assert any(line in guard.line and guard.outcome == outcome for guard in trace.guards)
    assert all("test_proxies.py:" in guard.line for guard in trace.guards)
    if refused is not None:
        with pytest.raises(RuntimeError, match=r"the network was traced where .*test_proxies\.py:\d+ .* came to "):
            run_graph(trace, torch.randn(refused))


def test_a_decision_that_changes_nothing_is_not_checked() -> None:
    def run(m: Any, x: Any) -> Any:
        seen = [name for name in ("large",) if x.size(2) > 12]
        m.seen = f"{seen} {x.size(2)}"
        return m.conv(x)

    net, trace = traced(run)
    assert trace.any_size
    assert trace.guards == ()
    assert not any(node.target is guarded for node in trace.graphs["eval"].nodes)
    assert [node.op for node in trace.graphs["eval"].nodes] == ["placeholder", "call_module", "output"]
    assert agrees(net, trace, 1, 3, 64, 64)


def test_an_assertion_holds_for_the_same_graph_at_another_size() -> None:
    def run(m: Any, x: Any) -> Any:
        assert x.size(2) % 2 == 0, f"odd: {x.size(2)}"
        return m.conv(x)

    net, trace = traced(run)
    assert trace.any_size
    assert [guard.outcome for guard in trace.guards] == ["True"]
    assert agrees(net, trace, 1, 3, 6, 6)
    with pytest.raises(RuntimeError, match="came to True, and this input makes it False"):
        run_graph(trace, torch.randn(1, 3, 7, 6))


def test_same_padding() -> None:
    def run(m: Any, x: Any) -> Any:
        h, w = x.shape[-2:]
        down, across = (max((math.ceil(n / 2) - 1) * 2 + 3 - n, 0) for n in (h, w))
        if down > 0 or across > 0:
            x = F.pad(x, [across // 2, across - across // 2, down // 2, down - down // 2])
        return m.conv(x)

    layer = nn.Conv2d(3, 4, 3, stride=2)
    net, trace = traced(run, conv=layer)
    assert trace.any_size
    assert agrees(net, trace, 1, 3, 20, 30)
    assert agrees(net, trace, 1, 3, 7, 9)


def test_sizes_and_tables_may_be_matched() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 8)

        def forward(self, x: torch.Tensor) -> Any:
            match x.shape:
                case (_, 3, _, _):
                    out = {"maps": self.conv(x)}
                case _:
                    raise ValueError
            match out:
                case {"maps": maps}:
                    return maps.relu()

    graph = trace(Net(), inputs=(torch.empty(2, 3, 8, 8),)).graphs["eval"]
    assert [node.name for node in graph.nodes if node.op in ("call_module", "call_method")] == ["conv", "relu"]


def test_numpy_may_be_handed_sizes() -> None:
    def run(m: Any, x: Any) -> Any:
        down, across = (-np.array(x.shape[2:]) % 8).tolist()
        return m.conv(F.pad(x, (0, across, 0, down)))

    net, trace = traced(run)
    assert agrees(net, trace, *IMAGE)
    # What numpy came to is a number in the graph, which holds for these sizes alone.
    assert (trace.any_size, len(trace.guards)) == (False, 2)


def test_a_function_of_another_package_is_answered_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's package names it, and the other package asks for the type of what it is handed."""
    (tmp_path / "somebody_elses.py").write_text(
        "import torch\n"
        "def rolled(x):\n"
        "    if not isinstance(x, torch.Tensor):\n"
        "        raise TypeError(type(x))\n"
        "    return x.roll(1, 2)\n"
    )
    (tmp_path / "a_models_own.py").write_text(
        "from torch import nn\n"
        "from somebody_elses import rolled\n"
        "class Own(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 4, 3)\n"
        "    def forward(self, x):\n"
        "        return self.conv(rolled(x))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    net = importlib.import_module("a_models_own").Own().eval()
    image = torch.randn(IMAGE)
    assert torch.equal(run_graph(trace_at_a_size(net, input_size=IMAGE[1:]), image), net(image))


def test_a_number_of_the_data_cannot_be_followed() -> None:
    for run in (
        lambda m, x: m.conv(x) if x.sum() > 0 else x,
        lambda m, x: m.conv(x) * float(x.max()),
        lambda m, x: m.conv(x) * x.max().item(),
        lambda m, x: m.conv(x) * int(x.max()),
        lambda m, x: m.conv(x) if 3 in x else x,
        lambda m, x: m.conv(torch.from_numpy(x.numpy() * 2)),
    ):
        with pytest.raises(TraceError, match=r"Net cannot be traced: stopped at .*test_proxies\.py:\d+"):
            traced(run)


def test_a_type_error_of_the_models_own_is_caught_by_its_code() -> None:
    def run(m: Any, x: Any) -> Any:
        try:
            return m.conv(torch.cat([x, x], 1))
        except RuntimeError:
            return m.conv(x)

    net, trace = traced(run)
    assert agrees(net, trace)
    assert [node.op for node in trace.graphs["eval"].nodes].count("call_module") == 1


def test_what_code_notes_on_the_model_is_taken_back() -> None:
    class Caching(Net):
        def __init__(self) -> None:
            super().__init__(lambda m, x: x, conv=conv(3, 4))
            self.cache: dict[str, Any] = {}
            self.grid: Any = None

        def forward(self, x: torch.Tensor) -> Any:
            if self.grid is None or self.grid.shape != x.shape:
                self.grid = torch.ones(x.shape)
            if "mean" not in self.cache:
                self.cache["mean"] = x.mean()
            return self.conv(x + self.grid) - self.cache["mean"]

    net = Caching().eval()
    trace = trace_at_a_size(net, input_size=IMAGE[1:])
    skeleton: Any = trace.skeleton
    assert (net.grid, net.cache, skeleton.grid, skeleton.cache) == (None, {}, None, {})
    image = torch.randn(IMAGE)
    assert torch.equal(run_graph(trace, image), net(image))


def test_constants_keep_their_values() -> None:
    class Strided(Net):
        def __init__(self) -> None:
            super().__init__(lambda m, x: x, conv=conv(3, 4))
            self.strides = torch.tensor([2.0, 4.0])

        def forward(self, x: torch.Tensor) -> Any:
            return self.conv(x) * (4 if self.strides.max() > 3 else 1) + self.strides.sum()

    net = Strided().eval()
    trace = trace_at_a_size(net, input_size=IMAGE[1:])
    image = torch.randn(IMAGE)
    assert torch.equal(run_graph(trace, image), net(image))
    assert trace.guards == ()
