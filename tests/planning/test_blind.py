"""What a plan says of attention that an instance norm leaves nothing to see."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_inject import inject, make_plan

from ..toys import conv

SIZE = (3, 12, 12)


class Normed(nn.Module):
    """A residual block whose branch ends in a norm."""

    def __init__(self, norm: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.norm = conv(16, 16), conv(16, 16), norm
        self.drop = nn.Dropout2d(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.drop(self.norm(self.b(torch.relu(self.a(x))))))


def _net(norm: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    return nn.Sequential(conv(3, 16), Normed(norm), Normed(nn.BatchNorm2d(16)), nn.Flatten(1), nn.Linear(2304, 2))


def _said(norm: Callable[[torch.Tensor], torch.Tensor], attention: str, placement: str = "standard") -> list[str]:
    plan = make_plan(_net(norm), attention, input_size=SIZE, placement=placement)
    return [note for note in plan.notes if "instance norm" in note]


NORMS = {
    "instance norm": nn.InstanceNorm2d(16),
    "with weights": nn.InstanceNorm2d(16, affine=True),
    "groups of one": nn.GroupNorm(16, 16),
    "function": F.instance_norm,
    "function, groups of one": lambda x: F.group_norm(x, 16),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attention", ["se", "eca", "srm", "gct"])
@pytest.mark.slow
def test_attention_that_sees_moments_only_is_named_behind_an_instance_norm(norm: str, attention: str) -> None:
    (note,) = _said(NORMS[norm], attention)
    assert note.startswith(
        f"1 of 2 are right behind an instance norm (1.{attention}, ...), which gives the channels of"
    )
    assert f"{attention} sees nothing else" in note
    for placement in ("pre", "post"):
        assert _said(NORMS[norm], attention, placement) == []


@pytest.mark.parametrize("attention", ["cbam", "coord", "fca", "gc", "sge", "psa"])
def test_attention_that_sees_more_is_not(attention: str) -> None:
    """Also where it looks at nothing as it starts."""
    assert _said(NORMS["with weights"], attention) == []


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(16), nn.GroupNorm(4, 16), lambda x: F.group_norm(x, 4), nn.Identity(), torch.relu]
)
def test_nor_is_any_behind_another_norm(norm: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert _said(norm, "se") == []


def test_what_the_note_says_is_so_and_the_callers_random_numbers_stay() -> None:
    torch.manual_seed(0)
    model = _net(NORMS["with weights"]).eval()
    state = torch.get_rng_state()
    make_plan(model, "se", input_size=SIZE)
    assert torch.equal(state, torch.get_rng_state())
    patched = inject(model, "se", input_size=SIZE, init="paper").eval()
    seen: dict[str, torch.Tensor] = {}
    for path in ("1.se", "2.se"):
        gate = patched.get_submodule(path)
        gate.register_forward_hook(lambda _, args, out, path=path: seen.update({path: out / args[0]}))
    with torch.no_grad():
        patched(torch.randn(2, *SIZE))
    spread = {path: float((weights[0] - weights[1]).nanmean(dim=(1, 2)).abs().max()) for path, weights in seen.items()}
    assert spread["1.se"] < 1e-4 < spread["2.se"]
