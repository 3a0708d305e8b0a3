"""Forwards of every make, in both forms: decorated ones, ones that call themselves, slices of what a model holds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import attach, find_sites, inject, make_plan

from ..before_after import check_surgery, every_gate_runs
from ..toys import Toy, conv, gates_run

SMALL = (3, 16, 16)
IMAGE = torch.randn(2, *SMALL, generator=torch.Generator().manual_seed(0))
FORMS = [inject, attach]
relu = torch.relu


def passing_on(forward: Callable) -> Callable:
    @functools.wraps(forward)
    def wrapped(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs)

    return wrapped


def doubling(forward: Callable) -> Callable:
    """Changes what the forward is given by name."""

    @functools.wraps(forward)
    def wrapped(self: nn.Module, x: torch.Tensor, **kwargs: Any) -> Any:
        return forward(self, x, **{**kwargs, "scale": 2 * kwargs.get("scale", 1.0)})

    return wrapped


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(16, 16), conv(16, 16)


class Wrapped(Block):
    @passing_on
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(relu(self.a(x)))


class Doubled(Block):
    @doubling
    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return x + self.b(relu(self.a(x))) * scale


class Given(nn.Module):
    """Calls its block with an argument, which the block's decorator changes."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Doubled()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x, scale=1.5)


class Deep(Block):
    """A method that calls itself, with the block's two layers at each depth."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.descend(x, 3)

    def descend(self, x: torch.Tensor, depth: int) -> torch.Tensor:
        return x if depth == 0 else self.b(relu(self.a(self.descend(x, depth - 1))))


class Plain(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(relu(self.a(x)))


class Sliced(nn.Module):
    """Runs its first block by itself, the others as a slice, and the last two once more."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(Plain(), Plain(), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features[1:](self.features[0](x))
        return self.features[-2:](x)


BLOCKS: dict[Callable[[], nn.Module], list[str]] = {
    Wrapped: ["body"],
    Doubled: ["body"],
    Given: ["body.block"],
    Deep: ["body"],
    Sliced: ["body.features.0", "body.features.1"],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", BLOCKS)
def test_odd_forwards(make: Callable[[], nn.Module], form: Any) -> None:
    torch.manual_seed(0)
    model = Toy(make()).eval()
    patched = form(model, "se", reduction=4, init="identity", input_size=SMALL)
    if form is inject:
        check_surgery(model, patched, blocks=BLOCKS[make], inputs=(IMAGE,), same_output=True)
    assert [insertion.site.block for insertion in patched.injection.plan.insertions] == BLOCKS[make]
    (outputs,) = every_gate_runs(patched, IMAGE)
    assert torch.equal(outputs, model(IMAGE))


def test_what_a_slice_runs_again_is_one_site_that_runs_twice() -> None:
    torch.manual_seed(0)
    plan = make_plan(Toy(Sliced()), "se", reduction=4, input_size=SMALL)
    assert [insertion.site.calls for insertion in plan.insertions] == [1, 2]


class Holds(Block):
    """Keeps tensors as plain attributes: a mask, and scales in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = torch.ones(1, 16, 1, 1)
        self.scales = [torch.full((1,), 0.5), torch.full((1,), 2.0)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(relu(self.a(x * self.mask))) * self.scales[0] * self.scales[1]


def _made_on_meta() -> nn.Module:
    with torch.device("meta"):
        return Toy(Holds())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", [_made_on_meta, lambda: Toy(Holds()).to("meta")])
def test_a_model_of_shapes_alone_that_holds_tensors_as_attributes(make: Callable[[], nn.Module], form: Any) -> None:
    """Made on the meta device, all are there; moved there, what no table holds stays behind."""
    model = make()
    assert [site.block for site in find_sites(model, input_size=SMALL)] == ["body"]
    patched = form(model, "se", reduction=4, input_size=SMALL).eval()
    assert [name for name in patched.state_dict() if ".se." in name] == ["body.se.fc1.weight", "body.se.fc2.weight"]
    if make is _made_on_meta:
        given = patched(torch.empty(2, *SMALL, device="meta"))
        assert (given.device.type, tuple(given.shape)) == ("meta", (2, 5))


@pytest.mark.parametrize("form", FORMS)
def test_tensors_as_attributes_are_computed_with(form: Any) -> None:
    torch.manual_seed(0)
    model = Toy(Holds()).eval()
    patched = form(model, "se", reduction=4, init="identity", input_size=SMALL).eval()
    assert torch.equal(patched(IMAGE), model(IMAGE))


class Counted(nn.Module):
    """Takes its map from a dict, puts the new one back, and counts in it; the count may not be there yet."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(8, 8), conv(8, 8)

    def forward(self, state: dict[str, Any]) -> dict[str, Any]:
        state["x"] = relu(state["x"] + self.b(relu(self.a(state["x"]))))
        state["runs"] = state.get("runs", 0) + 1
        return state


class Handing(nn.Module):
    def __init__(self, *, by_name: bool) -> None:
        super().__init__()
        self.stem, self.blocks, self.by_name = conv(3, 8), nn.ModuleList(Counted() for _ in range(2)), by_name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = {"x": self.stem(x)}
        for block in self.blocks:
            state = block(state=state) if self.by_name else block(state)
        return state["x"] * state["runs"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("by_name", [False, True])
def test_a_block_is_read_on_what_its_dict_was_before_it_wrote_into_it(by_name: bool, form: Any) -> None:
    model = Handing(by_name=by_name).eval()
    patched = form(model, "eca", init="identity", input_size=SMALL)
    assert [insertion.module for insertion in patched.injection.plan.insertions] == ["blocks.0.eca", "blocks.1.eca"]
    assert torch.equal(patched.eval()(IMAGE), model(IMAGE))
    assert gates_run(patched, IMAGE) == 2


class Deciding(Counted):
    """A block whose own code has to run: it decides on its data."""

    def forward(self, x: Any) -> Any:
        return x if x.min() > 1e9 else relu(x + self.b(relu(self.a(x))))


@pytest.mark.parametrize("name", ["Plain", "Conv[3x3]", "class", 'a"""b'])
def test_a_class_may_have_any_name(name: str) -> None:
    model = nn.Sequential(conv(3, 8), type(name, (Deciding,), {})()).eval()
    patched = attach(model, "eca", init="identity", input_size=SMALL)
    assert [insertion.module for insertion in patched.injection.plan.insertions] == ["1.eca"]
    assert torch.equal(patched.eval()(IMAGE), model(IMAGE))
    assert gates_run(patched, IMAGE) == 1
