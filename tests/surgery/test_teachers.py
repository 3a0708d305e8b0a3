"""Models that write into weights of theirs through `parameters()`, in train mode, as averaged teachers are made."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import RewriteError, TraceError, attach, find_sites, inject

from .. import toys

SIZE = (16, 8, 8)
IMAGE = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))
_Weights = list[tuple[nn.Parameter, nn.Parameter]]


def in_place(pairs: _Weights) -> None:
    for old, new in pairs:
        old.mul_(0.9).add_(new, alpha=0.1)


def by_operators(pairs: _Weights) -> None:
    for old, new in pairs:
        old *= 0.9  # type: ignore[misc]  # noqa: PLW2901  # in place
        old += 0.1 * new  # type: ignore[misc]  # noqa: PLW2901


def copied(pairs: _Weights) -> None:
    for old, new in pairs:
        old.copy_(0.9 * old + 0.1 * new)


def of_their_data(pairs: _Weights) -> None:
    for old, new in pairs:
        old.data.mul_(0.9).add_(new.data, alpha=0.1)


def as_their_data(pairs: _Weights) -> None:
    for old, new in pairs:
        old.data = old.data * 0.9 + new.data * 0.1


def all_at_once(pairs: _Weights) -> None:
    torch._foreach_mul_([old for old, _ in pairs], 0.9)
    torch._foreach_add_([old for old, _ in pairs], [new for _, new in pairs], alpha=0.1)


def into_them(pairs: _Weights) -> None:
    for old, new in pairs:
        torch.lerp(old, new, 0.1, out=old)


UPDATES = (in_place, by_operators, copied, of_their_data, as_their_data, all_at_once, into_them)


class Taught(nn.Module):
    def __init__(self, update: Callable[[_Weights], None]) -> None:
        super().__init__()
        self.student = toys.Residual(toys.conv(16, 16), nn.BatchNorm2d(16), nn.ReLU(), toys.conv(16, 16))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.update = update

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            if self.training:
                self.update(list(zip(self.teacher.parameters(), self.student.parameters(), strict=False)))
            taught = self.teacher(x)
        out: torch.Tensor = self.student(x) - taught
        return out.relu()


def _taught(update: Any) -> Taught:
    torch.manual_seed(0)
    model = Taught(update)
    for weight in model.student.parameters():
        weight.data.add_(torch.rand_like(weight))
    return model


@pytest.mark.parametrize("form", [inject, attach])
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.slow
def test_no_weight_of_the_callers_changes_and_the_teacher_goes_on_to_learn(update: Any, form: Any) -> None:
    model, other = _taught(update), _taught(update)
    before = {name: held.clone() for name, held in model.state_dict().items()}
    find_sites(model, input_size=SIZE)
    with pytest.raises((RewriteError, TraceError)):
        inject(model, "se", input_size=SIZE, reduction=4)
    try:
        patched = form(model, "se", input_size=SIZE, reduction=4, init="identity", exclude="teacher")
    except TraceError as error:
        assert form is inject
        assert update in (as_their_data, all_at_once, into_them)
        assert "writes into its weights past the modules that hold them" in str(error)
        patched = None
    assert all(torch.equal(held, before[name]) for name, held in model.state_dict().items())
    if patched is not None:
        # Each pass moves the teacher: of one of its own.
        assert toys.gates_run(copy.deepcopy(patched).train(), IMAGE) == 1
    for _ in range(2 if patched is not None else 0):
        assert torch.equal(patched.train()(IMAGE), other.train()(IMAGE))
    if patched is not None:
        held = patched.state_dict()
        assert all(torch.equal(held[name], expected) for name, expected in other.state_dict().items())
        assert not torch.equal(held["teacher.branch.0.weight"], before["teacher.branch.0.weight"])


def test_what_is_made_of_weights_is_no_constant() -> None:
    class Penalised(Taught):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
            first = next(self.parameters())
            shift = first.new_zeros(16, 1, 1) + first.detach().mean()
            return super().forward(x) + shift, sum(w.square().sum() for w in self.student.parameters())  # type: ignore[return-value]

    model: Any = Penalised(in_place)
    patched: Any = inject(model, "se", input_size=SIZE, reduction=4, init="identity", exclude="teacher").eval()
    with torch.no_grad():
        model.student.branch[0].weight.mul_(2)
    for ours, theirs in zip(patched(IMAGE), model.eval()(IMAGE), strict=True):
        assert torch.equal(ours, theirs)
    patched(IMAGE)[1].backward()
    assert model.student.branch[0].weight.grad is not None or patched.student.branch[0].weight.grad is not None


def test_the_numbers_of_a_plain_tensor_can_be_asked_for_after_it_was_used() -> None:
    class Anchored(Taught):
        def __init__(self) -> None:
            super().__init__(in_place)
            self.anchors = torch.tensor([1.0, 2.0, 3.0])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x * self.anchors[0] + self.anchors.sum()
            return super().forward(x) * int((self.anchors * 2).max())

    model = Anchored()
    patched: Any = inject(model, "se", input_size=SIZE, reduction=4, init="identity", exclude="teacher").eval()
    assert torch.equal(patched(IMAGE), model.eval()(IMAGE))
