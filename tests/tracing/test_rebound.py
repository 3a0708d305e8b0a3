"""Functions in a model that reach its modules past `self`: a copy's run the copy."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import TraceError, attach, inject
from attn_inject.tracing.alias import alias
from attn_inject.tracing.rebound import rebound

from .. import toys

SIZE = (16, 8, 8)
IMAGE = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))
MODEL: Any = None


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (
            toys.Residual(toys.conv(16, 16), nn.BatchNorm2d(16), nn.ReLU(), toys.conv(16, 16)) for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(self.first(x))
        return out.relu()


def by_closure(model: Any) -> None:
    model.forward = lambda x: model.second(model.first(x)).relu()


def by_a_helper(model: Any) -> None:
    def helper(x: torch.Tensor, *, times: int = 1) -> Any:
        return model.first(x) * times

    model.forward = lambda x: model.second(helper(x)).relu()


def by_itself(model: Any) -> None:
    def run(x: torch.Tensor, depth: int = 0) -> Any:
        return run([model.first, model.second][depth](x), depth + 1) if depth < 2 else x.relu()

    model.forward = run


def in_a_list(model: Any) -> None:
    model.steps = [lambda x: model.first(x), lambda x: model.second(x)]
    model.forward = lambda x: model.steps[1](model.steps[0](x)).relu()


def in_a_part(model: Any) -> None:
    first = model.first
    model.first.forward = lambda x: x + first.branch(x)


def by_a_method(model: Any) -> None:
    run = model.first.__call__
    model.forward = lambda x: model.second(run(x)).relu()


def of_the_file(x: torch.Tensor) -> Any:
    return MODEL.second(first_of_the_file(x)).relu()


def first_of_the_file(x: torch.Tensor) -> Any:
    return MODEL.first(x)


def by_name(model: Any) -> None:
    global MODEL  # what users' scripts do
    MODEL = model.forward.__self__
    model.forward = of_the_file


HOWS = (by_closure, by_a_helper, by_itself, in_a_list, in_a_part, by_a_method, by_name)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.slow
def test_the_modules_of_the_copy_run(how: Any) -> None:
    torch.manual_seed(0)
    model = Net()
    how(model)
    expected = Net()
    expected.load_state_dict(model.state_dict())
    for form in (inject, attach):
        patched = form(model, "se", input_size=SIZE, reduction=4, init="identity")
        assert toys.gates_run(patched, IMAGE) == 2
        for training in (False, True):
            state = {name: held.clone() for name, held in model.state_dict().items()}
            expected.load_state_dict(state)
            assert torch.equal(patched.train(training)(IMAGE), expected.train(training)(IMAGE))
            assert all(map(torch.equal, model.state_dict().values(), expected.state_dict().values()))
        # The original's own modes are left alone.
        assert all(module.training for module in model.modules())


def test_what_reaches_no_module_is_the_same_function() -> None:
    model, outer = Net(), torch.ones(())

    def plain(x: torch.Tensor) -> torch.Tensor:
        return plain(x) if outer else x

    assert rebound(plain, {id(module): module for module in model.modules()}) is plain
    assert rebound(3, {}) == 3


def test_a_function_keeps_its_defaults_and_attributes() -> None:
    model: Any = Net()

    def scaled(x: torch.Tensor, by: float = 2.0, *, shift: float = 1.0) -> Any:
        """Scaled."""
        return model.first(x) * by + shift

    scaled.note = "kept"  # type: ignore[attr-defined]
    model.scaled = scaled
    twin: Any = alias(model)
    assert twin.scaled is not scaled
    assert (twin.scaled.note, twin.scaled.__doc__, twin.scaled.__name__) == ("kept", "Scaled.", "scaled")
    assert torch.equal(twin.eval().scaled(IMAGE, shift=0.5), model.eval().first(IMAGE) * 2 + 0.5)


def test_a_weak_reference_to_the_whole_is_one_to_the_copy() -> None:
    class Child(nn.Module):
        def __init__(self, parent: nn.Module) -> None:
            super().__init__()
            self.parent = weakref.ref(parent)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parent: Any = self.parent()
            out: torch.Tensor = parent.first(x)
            return out

    class Whole(Net):
        def __init__(self) -> None:
            super().__init__()
            self.child = Child(self)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.second(self.child(x))
            return out.relu()

    model = Whole()
    for form in (inject, attach):
        patched = form(model, "se", input_size=SIZE, reduction=4, init="identity")
        assert toys.gates_run(patched, IMAGE) == 2
        assert torch.equal(patched.eval()(IMAGE), model.eval()(IMAGE))
        model.train()


def test_what_no_copy_can_have_is_refused_before_the_model_runs() -> None:
    model: Any = Net()
    held = {"model": model}
    model.forward = lambda x: held["model"].second(held["model"].first(x))
    before = {name: each.clone() for name, each in model.state_dict().items()}
    for form in (inject, attach):
        with pytest.raises(TraceError, match="runs the model itself by a name or an object that no copy of it has"):
            form(model, "se", input_size=SIZE, reduction=4)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
