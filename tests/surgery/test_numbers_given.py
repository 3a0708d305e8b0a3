"""Blocks that are given numbers, most of them sizes: attach() is bound to none of these."""

from __future__ import annotations

import copy
import enum
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_inject import GuardError, attach, inject
from attn_inject.errors import ArgumentError

SIDES = (16, 24, 32)


def image(side: int) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        # No module gives what is gated, so that the block's forward is rewritten.
        return (self.conv2(self.norm(self.conv1(x)).relu()) * 1.5).relu()


class Scaled(Block):
    def forward(self, x: torch.Tensor, mask: Any = None, scale: float = 1.0, extra: int = 0) -> torch.Tensor:
        x = x if mask is None else x * mask
        return x + self.branch(x) * scale + extra


class Sized(Block):
    def forward(self, x: torch.Tensor, size: Any) -> torch.Tensor:
        height, width = size
        x = F.interpolate(x, size=size).flatten(2).view(x.shape[0], -1, height, width)
        return x + self.branch(x)


class Moded(Block):
    def forward(self, x: torch.Tensor, mode: str, size: Any, *, deep: bool = False) -> torch.Tensor:
        x = F.interpolate(x, size=size, mode=mode)
        return x + self.branch(x) * (2 if deep else 1)


class Deciding(Block):
    def forward(self, x: torch.Tensor, size: Any) -> torch.Tensor:
        if size[0] > 20:
            x = x * 2
        return x + self.branch(x)


Call = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


class Net(nn.Module):
    def __init__(self, block: nn.Module, call: Call) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.block = block
        self.head = nn.Linear(8, 3)
        self.call = call

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.call(self.block, self.stem(x), x).mean((2, 3)))


def net(block: nn.Module, call: Call) -> nn.Module:
    return Net(block, call).eval()


def attached(model: nn.Module, side: int) -> nn.Module:
    patched: nn.Module = attach(model, "eca", init="identity", example_inputs=(image(side),))
    assert len(patched.injection.plan.insertions) == 1
    return patched.eval()


@pytest.mark.parametrize(
    ("block", "call"),
    [
        (Sized, lambda block, y, x: block(y, (x.shape[2], x.shape[3]))),
        (Sized, lambda block, y, x: block(y, (int(x.shape[2]), int(x.shape[3])))),
        (Sized, lambda block, y, x: block(y, [x.shape[2], x.shape[3]])),
        (Sized, lambda block, y, x: block(y, x.shape[2:])),
        (Sized, lambda block, y, x: block(y, size=x.size()[-2:])),
        (Moded, lambda block, y, x: block(y, "nearest", x.shape[2:])),
        (Moded, lambda block, y, x: block(y, "bilinear", size=x.shape[2:], deep=True)),
        (Moded, lambda block, y, x: block(y, mode="bilinear", size=x.shape[2:])),
        (Scaled, lambda block, y, x: block(y, None, 2.0)),
        (Scaled, lambda block, y, x: block(y, scale=x.shape[2] / 8)),
        (Scaled, lambda block, y, x: block(y, extra=x.shape[2])),
        (Scaled, lambda block, y, x: block(y, scale=y.mean())),
        (Scaled, lambda block, y, x: block(y, extra=y.mean(), scale=x.shape[2])),
        (Scaled, lambda block, y, x: block(block(y, scale=2.0), scale=3)),
    ],
)
def test_other_numbers_are_taken(block: type[Block], call: Call) -> None:
    model = net(block(), call)
    patched = attached(model, 16)
    for side in SIDES:
        assert torch.equal(patched(image(side)), model(image(side)))
        assert torch.equal(copy.deepcopy(patched)(image(side)), model(image(side)))


def test_what_is_decided_on_them_is_a_guard() -> None:
    model = net(Deciding(), lambda block, y, x: block(y, (x.shape[2], x.shape[3])))
    patched = attached(model, 16)
    assert torch.equal(patched(image(20)), model(image(20)))
    with pytest.raises(GuardError, match=r"`if size\[0\] > 20:` came to False, .*: detach\(\) it, and attach again"):
        patched(image(24))


def test_with_a_module_to_follow_nothing_is_decided() -> None:
    class Plain(Deciding):
        def branch(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv2(self.norm(self.conv1(x)).relu())

    model = net(Plain(), lambda block, y, x: block(y, (x.shape[2], x.shape[3])))
    patched = attached(model, 16)
    for side in SIDES:
        assert torch.equal(patched(image(side)), model(image(side)))


class Kind(enum.IntEnum):
    PLAIN = 1


class Optioned(Block):
    def forward(
        self, x: torch.Tensor, kind: Kind = Kind.PLAIN, low: float = -math.inf, deep: bool = False
    ) -> torch.Tensor:
        return (x + self.branch(x) * (2 if deep else kind)).clamp_min(low)


@pytest.mark.parametrize(
    "given", [{}, {"deep": True}, {"kind": Kind.PLAIN}, {"low": -0.5}, {"low": -math.inf, "deep": True}]
)
def test_what_is_left_out_is_what_the_class_has_it_at(given: dict[str, Any]) -> None:
    model: Any = net(Optioned(), lambda block, y, x: block(y, **given))
    patched: Any = attached(model, 16)
    assert torch.equal(patched(image(24)), model(image(24)))
    y = torch.randn(1, 8, 4, 4)
    if "deep" in given:
        # It was made with another.
        with pytest.raises(ArgumentError, match="made with deep=True and is given False"):
            patched.block(y)
    else:
        assert torch.equal(patched.block(y), model.block(y))


def test_a_number_may_be_left_out_but_is_not_none() -> None:
    model: Any = net(Scaled(), lambda block, y, x: block(y, None, 2.0))
    patched: Any = attached(model, 16)
    y = torch.randn(1, 8, 4, 4)
    for arguments in ((), (None, 3.0), (None,)):
        assert torch.equal(patched.block(y, *arguments), model.block(y, *arguments))
    with pytest.raises(ArgumentError, match=r"made with scale=2\.0 and is given None"):
        patched.block(y, None, None)


@pytest.mark.slow
def test_compilers_take_them_as_they_come() -> None:
    model = net(Sized(), lambda block, y, x: block(y, x.shape[2:]))
    patched = attached(model, 16)
    torch._dynamo.reset()
    compiled = torch.compile(patched, backend="eager", fullgraph=True)
    exported = torch.export.export(patched, (image(16),)).module()
    for side in SIDES:
        torch.testing.assert_close(compiled(image(side)), model(image(side)))
    torch.testing.assert_close(exported(image(16)), model(image(16)))


def test_inject_has_them_of_the_whole() -> None:
    model = net(Sized(), lambda block, y, x: block(y, x.shape[2:]))
    patched: nn.Module = inject(model, "eca", init="identity", example_inputs=(image(16),)).eval()
    for side in SIDES:
        assert torch.equal(patched(image(side)), model(image(side)))
