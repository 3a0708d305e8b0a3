"""What a trace keeps whole, fixes, follows and says when it stops."""

from __future__ import annotations

import importlib
import operator
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

from attn_inject import TraceError, inject
from attn_inject.tracing.nodes import frame_of, returned_by
from attn_inject.tracing.trace import trace

from .. import toys


class Own(nn.Module):
    """Code of somebody's own over one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x))


class Whole(Own):
    traced_whole = True


def _graph(model: nn.Module, **options: Any) -> fx.Graph:
    return trace(model, modes=("eval",), **options).graphs["eval"]


def _calls(graph: fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if node.op == "call_module"]


@pytest.mark.parametrize(
    ("make", "options", "calls"),
    [
        (Own, {}, ["0.layer"]),
        (Own, {"whole": ["0"]}, ["0"]),
        (Whole, {}, ["0"]),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), {}, ["0"]),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU()), {}, ["0.0", "0.1"]),
    ],
)
def test_what_stays_whole(make: Callable[[], nn.Module], options: dict[str, Any], calls: list[str]) -> None:
    assert _calls(_graph(nn.Sequential(make()), **options)) == calls


def test_nodes_know_their_call_and_what_returned_them() -> None:
    own = Own()
    graph = _graph(nn.Sequential(own, own))
    assert [(node.name, frame_of(node), returned_by(node)) for node in graph.nodes] == [
        ("input_1", ("", 0), ()),
        ("_0_layer", ("0", 0), ()),
        ("relu", ("0", 0), (("0", 0),)),
        ("_0_layer_1", ("0", 1), ()),
        ("relu_1", ("0", 1), (("0", 1),)),
        ("output", ("", 0), ()),
    ]


def test_arguments_with_a_default_are_fixed_unless_an_input_is_given() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor, y: Any = None, *, scale: float = 2.0) -> torch.Tensor:
            return x * scale if y is None else x + y

    one, two = (trace(Model(), inputs=(torch.zeros(1),) * n) for n in (1, 2))
    assert (one.fixed_arguments, two.fixed_arguments) == ({"y": None, "scale": 2.0}, {"scale": 2.0})
    assert [n.name for n in one.graphs["eval"].nodes] == ["x", "mul", "output"]
    assert [n.name for n in two.graphs["eval"].nodes] == ["x", "y", "add", "output"]
    assert list(one.graphs) == ["eval", "train"]


def test_a_forward_of_any_number_of_inputs_has_one() -> None:
    class Model(nn.Module):
        def forward(self, *xs: torch.Tensor, **options: Any) -> Any:
            return sum(xs)

    assert [n.name for n in _graph(Model()).nodes if n.op == "placeholder"] == ["xs_0"]
    two = _graph(Model(), inputs=(torch.zeros(1),) * 2)
    assert [n.name for n in two.nodes if n.op == "placeholder"] == ["xs_0", "xs_1"]


def test_in_place_changes_are_followed() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x.relu_()
            x += 1
            x -= 2
            x *= 3
            x /= 4
            x[:, :1] = 0
            return x.neg()

    steps = [node for node in _graph(Model()).nodes if node.op.startswith("call")]
    names = [node.target if isinstance(node.target, str) else node.target.__name__ for node in steps]
    assert names == ["relu_", "iadd", "isub", "imul", "itruediv", "index_assign", "neg"]
    assert [node.args[0] for node in steps[1:]] == steps[:-1]
    assert steps[1].target is operator.iadd


def test_parts_can_be_unpacked() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            a, b, c = torch.chunk(x, 3, 1)
            d, e = x.split([1, 2], 1)
            return a, b, c, d, e, len(x.tensor_split((1, 2), 1)), len(x.chunk(chunks=4))

    (output,) = [node for node in _graph(Model()).nodes if node.op == "output"]
    assert output.args[0][5:] == (3, 4)
    assert len(output.args[0]) == 7


def test_buffers_are_read_at_run_time_and_constants_live_beside_the_graph() -> None:
    class Model(nn.Module):
        steps: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.zeros(1))
            self.constant = torch.ones(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.steps.add_(1)
            return x * self.steps + torch.add(x, self.constant)

    model = Model()
    traced = trace(model, modes=("eval",))
    fetched = [node.target for node in traced.graphs["eval"].nodes if node.op == "get_attr"]
    assert fetched == ["steps", "_eval_constant_0"]
    assert torch.equal(traced.constants["_eval_constant_0"], torch.ones(1))
    assert model.steps.item() == 0


def test_hooks_of_what_is_traced_into_do_not_run_and_modes_stay() -> None:
    calls: list[str] = []
    model = nn.Sequential(Own(), nn.Dropout())
    model[0].register_forward_hook(lambda *_: calls.append("hook"))
    model.eval()[1].train()
    traced = trace(model)
    assert calls == []
    assert [m.training for m in traced.skeleton.modules()] == [m.training for m in model.modules()]
    assert len(traced.skeleton.get_submodule("0")._forward_hooks) == 1


class Asks(nn.Module):
    """Asks for a number that no trace knows."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x
        return self.parts[0](x)


def test_the_line_at_which_a_trace_stops_and_what_does_trace() -> None:
    body = nn.Sequential(toys.conv(3, 8), toys.conv(8, 8))
    small = nn.Sequential(toys.conv(3, 4), toys.conv(4, 4))
    line = next(i for i, text in enumerate(open(__file__), 1) if text.strip() == "if x.sum() > 0:")  # noqa: PTH123, SIM115
    reason = "symbolically traced variables cannot be used as inputs to control flow"
    start = f"Asks cannot be traced: stopped at {__file__}:{line} `if x.sum() > 0:` ({reason}); "
    with pytest.raises(TraceError) as caught:
        trace(Asks(small, body, toys.conv(3, 8)))
    assert str(caught.value) == f"{start}these submodules trace: parts.1, parts.0 (choose one, as in scope='parts.1')"
    with pytest.raises(TraceError) as caught:
        trace(Asks(toys.conv(3, 8)))
    assert str(caught.value) == f"{start}mark the code that cannot be traced with torch.fx.wrap"


def test_at_most_three_scopes_are_advised() -> None:
    parts = [nn.Sequential(toys.conv(3, width), toys.conv(width, width)) for width in (4, 16, 8, 2)]
    with pytest.raises(TraceError, match=r"these submodules trace: parts\.1, parts\.2, parts\.0 \(choose"):
        trace(Asks(*parts))


class AsksInTraining(Asks):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if self.training else self.parts[0](x)


def test_a_scope_is_advised_that_traces_in_both_modes_by_its_path_in_the_whole() -> None:
    deep = nn.Sequential(toys.conv(3, 4), toys.conv(4, 4))
    part = Asks(AsksInTraining(deep))
    for model, scope, advised in (
        (part, None, "parts.0.parts.0"),
        (nn.Sequential(part), "0", "0.parts.0.parts.0"),
    ):
        with pytest.raises(TraceError, match=rf"trace: {re.escape(advised)} \(choose one, as in scope='{advised}'"):
            inject(model, "eca", input_size=(3, 8, 8), scope=scope)


@pytest.mark.parametrize(
    ("line", "call"),
    [("import {0}", "{0}.halved"), ("from {0} import halved", "halved"), ("import {0}.inner", "{0}.inner.halved")],
)
def test_what_a_forward_imports_when_it_first_runs_knows_what_a_value_is(
    line: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "imported_" + call.replace("{0}", "all").replace(".", "_")
    package = tmp_path / name
    package.mkdir()
    source = (
        "import torch\n"
        "def halved(x):\n"
        "    if not isinstance(x, torch.Tensor): raise RuntimeError('no tensor')\n"
        "    return x / 2\n"
    )
    (package / "__init__.py").write_text(source)
    (package / "inner.py").write_text(source)
    (tmp_path / f"{name}_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 3, 1)\n"
        "    def forward(self, x):\n"
        f"        {line.format(name)}\n"
        f"        return {call.format(name)}(self.conv(x))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    net = importlib.import_module(f"{name}_net").Net()
    assert name not in sys.modules
    assert "truediv" in str(trace(net, inputs=(torch.rand(1, 3, 8, 8),), modes=["eval"]).graphs["eval"])


def test_packages_that_hold_a_module_twice_are_left_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "twicepkg").mkdir()
    (tmp_path / "twicepkg" / "__init__.py").write_text(
        "import sys\nfrom . import inner\nsys.modules['twicepkg.other'] = inner\n"
    )
    (tmp_path / "twicepkg" / "inner.py").write_text("def same(x):\n    return x\n")
    (tmp_path / "twice_net.py").write_text(
        "import twicepkg\nfrom torch import nn\n"
        "class Net(nn.Conv2d):\n"
        "    def __init__(self):\n        super().__init__(3, 4, 1)\n"
        "    def forward(self, x):\n        return twicepkg.inner.same(super().forward(x))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    net = importlib.import_module("twice_net").Net()
    for _ in range(2):
        assert trace(net, inputs=(torch.rand(1, 3, 8, 8),), modes=["eval"]).graphs["eval"]
    for home in ("twicepkg.inner", "twice_net"):
        assert not {"isinstance", "type", "callable"} & vars(sys.modules[home]).keys()
