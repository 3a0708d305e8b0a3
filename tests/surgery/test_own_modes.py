"""Classes that have their own `train`, `eval` and `state_dict`: both forms do what the class does."""

from __future__ import annotations

import copy
import gc
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import attach, find_sites, freeze_original, inject, load, optimize_training, report, save
from attn_inject.surgery.records import records_of

from .. import toys

SIZE = (16, 8, 8)
IMAGE = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))


class FrozenNorms(nn.Module):
    """Keeps the norms of its first block as they are, as detectors' backbones do."""

    class Option:
        width = 16

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (
            toys.Residual(toys.conv(16, 16), nn.BatchNorm2d(16), nn.ReLU(), toys.conv(16, 16)) for _ in range(2)
        )
        self.calls = 0

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.calls += 1
        for module in self.first.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(self.first(x))
        return out.relu()


class OwnEval(FrozenNorms):
    def eval(self) -> Any:
        super().eval()
        self.second.branch[1].train()
        return self


class Wrapped(FrozenNorms):
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {f"model.{name}": held for name, held in super().state_dict(*args, **kwargs).items()}


def _modes(model: Any) -> tuple[bool, bool, bool]:
    return model.training, model.first.branch[1].training, model.second.branch[1].training


@pytest.mark.parametrize("form", [inject, attach])
@pytest.mark.parametrize("kind", [FrozenNorms, OwnEval, Wrapped])
@pytest.mark.slow
def test_modes_are_those_of_the_class(form: Any, kind: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = kind()
    patched = form(model, "se", input_size=SIZE, reduction=4, init="identity")
    held = io.BytesIO()
    torch.save(patched, held)
    held.seek(0)
    save(patched, tmp_path / "net.pt")
    again = load(tmp_path / "net.pt", model=kind())
    assert patched.state_dict().keys() >= model.state_dict().keys()
    for each in (patched, again, copy.deepcopy(patched), torch.load(held, weights_only=False)):
        assert _modes(each.train()) == _modes(model.train()) == (True, False, True)
        assert _modes(each.eval()) == _modes(model.eval()) == (False, False, kind is OwnEval)
        assert each.train() is each
        assert toys.gates_run(each, IMAGE) == 2
    assert torch.equal(again.eval()(IMAGE), patched.eval()(IMAGE))
    expected = kind()
    nn.Module.load_state_dict(expected, nn.Module.state_dict(model))
    assert torch.equal(patched.train()(IMAGE), expected.train()(IMAGE))
    assert _modes(optimize_training(patched).train()) == (True, False, True)
    assert _modes(freeze_original(patched).train()) == (True, False, False)


def test_what_a_class_has_instead_of_torchs_is_named() -> None:
    class Other(Wrapped):
        def requires_grad_(self, requires_grad: bool = True) -> Any:
            return super().requires_grad_(requires_grad)

    patched: Any = inject(Other(), "se", input_size=SIZE, reduction=4)
    assert patched.injection.not_kept == ("the class's own requires_grad_(): what is there is torch's",)
    assert all(name.startswith("model.") for name in patched.state_dict())
    assert patched.Option.width == 16
    assert patched.train().calls == 1


class Renaming(FrozenNorms):
    """Takes the names that an older version of it gave."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name in [name for name in state_dict if name.startswith(f"{prefix}old_")]:
            state_dict[name.replace("old_", "")] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)


def renamed(module: Any, state_dict: Any, *_: Any) -> None:
    assert isinstance(module.first, toys.Residual)
    for name in [name for name in state_dict if name.startswith("old_")]:
        state_dict[name.replace("old_", "")] = state_dict.pop(name)


class Hooked(FrozenNorms):
    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(renamed)


@pytest.mark.parametrize("form", [inject, attach])
@pytest.mark.parametrize("kind", [Renaming, Hooked])
def test_older_state_dicts_are_taken_as_the_class_takes_them(kind: Any, form: Any) -> None:
    patched: Any = form(kind(), "se", input_size=SIZE, reduction=4)
    gc.collect()
    old = {
        name.replace("first", "old_first"): held + 1 if held.is_floating_point() else held
        for name, held in patched.state_dict().items()
    }
    held = io.BytesIO()
    torch.save(patched, held)
    held.seek(0)
    copies = [copy.copy(patched), copy.deepcopy(patched), torch.load(held, weights_only=False)]
    assert [toys.gates_run(each.eval(), IMAGE) for each in (*copies, patched)] == [2] * 4
    for each in (*copies, patched):
        each.load_state_dict(dict(old))
        assert all(map(torch.equal, each.state_dict().values(), old.values()))


def test_hooks_on_parameters_are_named() -> None:
    model = FrozenNorms()
    model.first.branch[0].weight.register_hook(lambda gradient: gradient)
    model.second.branch[0].weight.register_post_accumulate_grad_hook(lambda _: None)
    named = {
        f"parameter hook on {name}.branch.0.weight: register it again, on the patched model's"
        for name in ("first", "second")
    }
    assert named <= set(inject(model, "se", input_size=SIZE, reduction=4).injection.not_kept)
    attached = attach(model, "se", input_size=SIZE, reduction=4)
    assert named <= {loss for _, record in records_of(attached) for loss in record.not_kept}


class Merging(nn.Conv2d):
    """Adds a part of its weight to it in eval mode, and takes it off again to train."""

    def __init__(self) -> None:
        super().__init__(16, 16, 3, padding=1)
        self.part, self.merged = nn.Parameter(torch.rand(16, 16, 3, 3)), False

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.part.data
            self.merged = not mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight if self.merged else self.weight + self.part
        return nn.functional.conv2d(x, weight, self.bias, padding=1)


class Merged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = toys.Residual(Merging(), nn.ReLU(), Merging())

    def train(self, mode: bool) -> None:  # type: ignore[override]
        super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.block(x)
        return out.relu()


def test_weights_that_change_with_the_mode_stay_the_callers() -> None:
    model = Merged()
    before = {name: held.clone() for name, held in model.state_dict().items()}
    report(model, inject(model, "se", input_size=SIZE, reduction=4), bench=False)
    assert len(find_sites(model, input_size=SIZE)) == 1
    for form in (inject, attach):
        patched: Any = form(model, "se", input_size=SIZE, reduction=4, init="identity", copy=True)
        assert all(torch.equal(held, before[name]) for name, held in model.state_dict().items())
        other = copy.deepcopy(model)
        for training in (False, True):
            patched.train(training)
            other.train(training)
            assert toys.gates_run(patched, IMAGE) == 1
            assert torch.equal(patched(IMAGE), other(IMAGE))


def test_a_pickle_of_a_class_that_nobody_can_import_says_what_it_is_without() -> None:
    class Local(FrozenNorms):
        pass

    patched = inject(Local(), "se", input_size=SIZE, reduction=4)
    held = io.BytesIO()
    with pytest.warns(UserWarning, match=r"the pickle is without Local's own train\(\): no other process can import"):
        torch.save(patched, held)
    held.seek(0)
    assert toys.gates_run(torch.load(held, weights_only=False), IMAGE) == 2
    assert toys.gates_run(copy.deepcopy(patched), IMAGE) == 2
