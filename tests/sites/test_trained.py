"""R15: what no gradient comes back to is no site."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import PlanError, attach, find_sites, inject
from tests.toys import Block


class Pair(nn.Module):
    """A teacher and a student; `forward` says how the teacher is run."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.teacher = nn.Sequential(Block(operator.add, 8, 8), Block(operator.add, 8, 8))
        self.student = nn.Sequential(Block(operator.add, 8, 8), Block(operator.add, 8, 8))

    def taught(self, x: torch.Tensor) -> torch.Tensor:
        return self.teacher(x)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x)
        return self.student(x), self.taught(x)


class Frozen(Pair):
    @torch.no_grad()
    def taught(self, x: torch.Tensor) -> torch.Tensor:
        return self.teacher(x)


class Within(Pair):
    def taught(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = self.teacher(x)
            # Back in a region that is switched off, not on.
            with torch.no_grad():
                x = x + 1
            return y * x


class Detached(Pair):
    def taught(self, x: torch.Tensor) -> torch.Tensor:
        return self.teacher(x).detach()


class Data(Pair):
    def taught(self, x: torch.Tensor) -> torch.Tensor:
        return self.teacher(x).data * 2


class Indices(Pair):
    def taught(self, x: torch.Tensor) -> torch.Tensor:
        return self.teacher(x).argmax(1)


class Mask(Pair):
    def taught(self, x: torch.Tensor) -> torch.Tensor:
        return self.teacher(x) > 0.5


class StraightThrough(Pair):
    def taught(self, x: torch.Tensor) -> torch.Tensor:
        y = self.teacher(x)
        return y + (y.round() - y).detach()


class WhenTrained(Pair):
    def taught(self, x: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(self.training):
            return self.teacher(x)


class GradientsWithin(Pair):
    def taught(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            mean = x.mean()
        return self.teacher(x - mean)


STUDENT = ["student.0", "student.1"]
TEACHER = ["teacher.0", "teacher.1"]


@pytest.mark.parametrize("kind", [Frozen, Within, Detached, Data, Indices, Mask])
@pytest.mark.slow
def test_what_no_gradient_comes_back_to_is_no_site(kind: type[Pair]) -> None:
    model = kind()
    sites = find_sites(model, input_size=16)
    assert [site.block for site in sites] == STUDENT
    assert [skipped.block for skipped in sites.skipped if skipped.reason.endswith(": R15")] == TEACHER
    for verb in (inject, attach):
        patched: Any = verb(model, "se", input_size=16, reduction=2)
        assert [one.site.block for one in patched.injection.plan.insertions] == STUDENT


@pytest.mark.parametrize("kind", [Pair, StraightThrough, WhenTrained, GradientsWithin])
def test_what_a_gradient_comes_back_to_is_one(kind: type[Pair]) -> None:
    sites = find_sites(kind(), input_size=16)
    assert sorted(site.block for site in sites) == STUDENT + TEACHER


def test_a_concat_under_no_grad_is_no_site() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
            self.c = nn.Conv2d(8, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.a(x).relu(), self.c(self.b(x).relu()).relu()], 1)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.frozen, self.trained, self.head = nn.Conv2d(3, 8, 1), Mixed(), Mixed(), nn.Conv2d(16, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            with torch.no_grad():
                y = self.frozen(x)
            return self.head(self.trained(x)) * self.head(y)

    sites = find_sites(Model(), input_size=16)
    assert [(site.block, site.kind) for site in sites] == [("trained", "mixed")]
    assert ("frozen", "concat") in [(one.block, one.operation) for one in sites.skipped if ": R15" in one.reason]


def test_a_pattern_that_matches_only_what_is_left_out() -> None:
    with pytest.raises(
        PlanError, match=r"'teacher\*' matches no block; the add in teacher.0 is no site: no gradient .*: R15"
    ):
        inject(Frozen(), "se", input_size=16, include="teacher*")
    patched: Any = inject(Frozen(), "se", input_size=16, exclude="teacher*", reduction=2)
    assert [one.site.block for one in patched.injection.plan.insertions] == STUDENT


def test_a_block_that_runs_twice_is_left_out_once() -> None:
    class Twice(Frozen):
        def taught(self, x: torch.Tensor) -> torch.Tensor:
            return super().taught(x) * super().taught(x + 1)

    patched: Any = inject(Twice(), "se", input_size=16, reduction=2)
    assert patched.injection.plan.notes == (
        "left out, since no gradient comes back to them (no_grad, detach or indices): teacher.0, teacher.1",
    )
