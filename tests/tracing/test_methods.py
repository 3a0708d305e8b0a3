"""Which methods a graph can run: by what their code takes from the module."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from torch import nn

from attn_inject import inject
from attn_inject.tracing.methods import methods_for_graph

from ..toys import conv, gates_run


def decorated(method: Any) -> Any:
    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return wrapper


def of_all(model: Any, x: Any) -> Any:
    return model.net(x)


class Base(nn.Module):
    def inherited(self, x: torch.Tensor) -> Any:
        return self(x)


class Net(Base):
    kind = "net"

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 3))
        self.shift = nn.Parameter(torch.zeros(1))
        self.register_buffer("mean", torch.zeros(1))
        self.config: dict[str, Any] = {"scale": 2.0}
        self.nothing = None
        self.stages, self.act = [self.net], torch.relu
        self.odd = 7

    @property
    def width(self) -> int:
        return 16

    def forward(self, x: torch.Tensor, scale: float = 1.0, *, only: bool = False) -> Any:
        out = x + self.net(x) * scale
        return out if only else (out, scale)

    # What a graph can run.
    def calls(self, x: torch.Tensor, **more: Any) -> Any:
        return self(x, **more)

    def by_name(self, x: torch.Tensor) -> Any:
        return self.forward(x) if self.training else self.forward(x=x)

    def with_settings(self, x: torch.Tensor) -> Any:
        return self.calls(x * self.width, scale=1.0)[0] / self.config["scale"], self.odd, self.nothing

    def itself(self, x: torch.Tensor, times: int = 2) -> Any:
        return self(x)[0] if times == 0 else self.itself(x, times - 1)

    def one(self, x: torch.Tensor, times: int) -> Any:
        return self.other(x, times - 1) if times else self(x)

    def other(self, x: torch.Tensor, times: int) -> Any:
        return self.one(x, times)

    def helper(self) -> int:
        return self.width * 2

    # What it cannot.
    def m1_module(self, x: torch.Tensor) -> Any:
        return self.net(x)

    def m1_parameter(self, x: torch.Tensor) -> Any:
        return self(x)[0] + self.shift

    def m1_buffer(self, x: torch.Tensor) -> Any:
        return self(x)[0] - self.mean

    def m1_list(self, x: torch.Tensor) -> Any:
        return self.stages[0](x)

    def m1_function(self, x: torch.Tensor) -> Any:
        return self.act(self(x)[0])

    def m1_of_every_module(self, x: torch.Tensor) -> Any:
        return next(self.children())(x)

    def m1_missing(self) -> Any:
        return self.nowhere

    def m1_calls_such(self, x: torch.Tensor) -> Any:
        return self.m1_module(x)

    def m2_handed_on(self, x: torch.Tensor) -> Any:
        return of_all(self, x)

    def m2_renamed(self, x: torch.Tensor) -> Any:
        model = self
        return model.net(x)

    def m2_parent(self, x: torch.Tensor) -> Any:
        return super().forward(x)

    def m3_sets(self, x: torch.Tensor) -> Any:
        self.kind = "other"
        return self(x)

    def m3_sets_below(self, x: torch.Tensor) -> Any:
        self.config["scale"] = 3.0
        return self(x)

    def m3_changes(self, x: torch.Tensor) -> Any:
        self.config.update(scale=3.0)
        return self(x)

    def m3_deletes(self) -> None:
        del self.config

    @decorated
    def m4_decorated(self, x: torch.Tensor) -> Any:
        return self(x)

    m4_no_function = functools.partial(of_all)
    m4_no_code: Any

    def _hidden(self, x: torch.Tensor) -> Any:
        return self(x)


made: dict[str, Any] = {}
exec("def m4_no_code(self, x): return self(x)", made)
Net.m4_no_code = made["m4_no_code"]

KEPT = ("by_name", "calls", "helper", "inherited", "itself", "one", "other", "with_settings")


def test_the_code_of_a_method_decides() -> None:
    assert methods_for_graph(Net, Net()) == KEPT
    patched = inject(Net(), "se", reduction=1, input_size=16)
    lost = [loss.split("(")[0].removeprefix("method ") for loss in patched.injection.not_kept if "method" in loss]
    assert sorted(lost) == sorted(name for name in vars(Net) if name.startswith(("m1", "m2", "m3", "m4_d", "m4_no")))


def test_what_an_instance_holds_decides_too() -> None:
    net = Net()
    net.config = {"scale": nn.Linear(1, 1)}
    assert "with_settings" not in methods_for_graph(Net, net)
    assert "calls" in methods_for_graph(Net, net)


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_method_runs_the_graph(name: str) -> None:
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(2, 3, 16, 16)
    arguments = {"helper": (), "one": (x, 1), "other": (x, 2)}.get(name, (x,))
    same: Any = inject(net, "se", reduction=1, init="identity", input_size=16).eval()
    ours, theirs = getattr(same, name)(*arguments), getattr(net, name)(*arguments)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    gated: Any = inject(net, "se", reduction=1, input_size=16).eval()
    if name != "helper":
        result = getattr(gated, name)(*arguments)
        out = result[0] if isinstance(result, tuple) else result
        before = theirs[0] if isinstance(theirs, tuple) else theirs
        assert not torch.allclose(out, before)


def unwrapped(method: Any) -> Any:
    """A decorator that says nothing of what it wraps, which runs the class's own modules."""

    def wrapper(self: Any, x: torch.Tensor) -> Any:
        return method(self, x)

    return wrapper


class Marked(Net):
    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith("bias")}

    @torch.jit.ignore
    def marked_run(self, x: torch.Tensor) -> Any:
        return self.net(x)

    @unwrapped
    def wrapped(self, x: torch.Tensor) -> Any:
        return self.net(x)

    def frozen(self) -> None:
        for parameter in self.parameters():
            parameter.requires_grad = False


def test_methods_that_are_marked_and_that_ask_for_names_and_tensors() -> None:
    found = methods_for_graph(Marked, Marked())
    assert {"no_weight_decay", "frozen"} <= set(found)
    assert not {"marked_run", "wrapped"} & set(found)
    patched: Any = inject(Marked(), "eca", input_size=(3, 8, 8))
    assert patched.no_weight_decay() == {"net.0.bias", "net.2.bias"}
    assert gates_run(patched, torch.randn(2, 3, 8, 8)) == 1
    patched.frozen()
    assert not any(parameter.requires_grad for parameter in patched.parameters())


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_groups_of_an_optimizer_are_those_of_the_original(name: str) -> None:
    model = timm.create_model(name)
    patched = inject(model, "eca", copy=True)

    def groups(of: nn.Module) -> dict[str, tuple[float, float]]:
        optimizer = create_optimizer_v2(of, opt="sgd", lr=0.1, weight_decay=0.05, layer_decay=0.7)
        names = {id(parameter): name for name, parameter in of.named_parameters()}
        return {names[id(p)]: (g["lr_scale"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}

    before, after = groups(model), groups(patched)
    assert len({scale for scale, _ in before.values()}) > 5
    assert {name: after[name] for name in before} == before
