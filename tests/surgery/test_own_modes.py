"""Classes that have their own `train`, `eval` and `state_dict`: both forms do what the class does."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import attach, freeze_original, inject, load, optimize_training, save

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
def test_modes_are_those_of_the_class(form: Any, kind: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = kind()
    patched = form(model, "se", input_size=SIZE, reduction=4, init="identity")
    held = io.BytesIO()
    torch.save(patched, held)
    held.seek(0)
    save(patched, tmp_path / "net.pt")
    again = load(tmp_path / "net.pt", model=kind())
    for each in (patched, again, copy.deepcopy(patched), torch.load(held, weights_only=False)):
        assert _modes(each.train()) == _modes(model.train()) == (True, False, True)
        assert _modes(each.eval()) == _modes(model.eval()) == (False, False, kind is OwnEval)
        assert each.train() is each
    assert torch.equal(again.eval()(IMAGE), patched.eval()(IMAGE))
    expected = kind()
    nn.Module.load_state_dict(expected, nn.Module.state_dict(model))
    assert torch.equal(patched.train()(IMAGE), expected.train()(IMAGE))
    assert _modes(optimize_training(patched).train()) == (True, False, True)
    assert _modes(freeze_original(patched).train()) == (True, False, False)


def test_what_a_class_has_instead_of_torchs_is_named() -> None:
    patched: Any = inject(Wrapped(), "se", input_size=SIZE, reduction=4)
    assert patched.injection.not_kept == ("the class's own state_dict(): what is there is torch's",)
    assert patched.Option.width == 16
    assert patched.train().calls == 1
