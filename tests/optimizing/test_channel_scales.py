"""Scales after a gate go into its weights, where the conditions C1 to C3 hold."""

from __future__ import annotations

import copy
import operator

import pytest
import torch
from torch import fx, nn

from attn_inject import inject, optimize_training
from attn_inject.optimizing.channel_scales import take_scales
from attn_inject.optimizing.train_steps import gate_and_add, scale_and_add
from attn_inject.tracing.nodes import set_value


class Block(nn.Module):
    """A residual block with a layer scale; `kind` says what is special about it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.norm = nn.BatchNorm2d(8) if "norm" in kind else None
        self.drop = nn.Dropout(0.5 if "dropped" in kind else 0.0)
        self.idle = nn.Identity()
        self.scale = nn.Parameter(torch.rand(() if "single" in kind else (8, 1, 4) if "wide" in kind else (8, 1, 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        y = y if self.norm is None else self.norm(y)
        if "permuted" in self.kind:
            y = self.drop(y.permute(0, 2, 3, 1))
            y = torch.permute(y, [0, 3, 1, 2]) if "back" in self.kind else y.permute((0, 3, 2, 1))
        return x + self.idle(0.5 * y * self.scale)


SCALES = {
    "plain": (1, 1),
    "single": (1, 1),
    "norm": (1, 1),
    "permuted back dropped": (1, 1),
    "norm permuted back": (1, 1),
    "permuted": (0, 0),
    "wide": (1, 0),
}


@pytest.mark.parametrize("kind", SCALES)
def test_scales(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), Block(kind)).double()
    patched = inject(model, "eca", input_size=(3, 4, 4)).train()
    twin = copy.deepcopy(patched)
    fast = optimize_training(twin)
    (used,) = [n for n in fast.graph_of("train").nodes if n.target in (gate_and_add, scale_and_add)]
    taken = used.args[1].target is operator.mul
    assert (taken, used.args[2] is not None) == SCALES[kind]
    x, results = torch.randn(2, 3, 4, 4).double(), []
    for each in (patched, fast):
        torch.manual_seed(1)
        out = each(x)
        out.square().sum().backward()
        results.append([out, *(p.grad for p in each.parameters()), *each.buffers()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_a_value_that_others_read_keeps_its_scale() -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Sigmoid()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.gate(x) * 2
            z = y * 3
            return y + z * 4

    traced = fx.symbolic_trace(Read())
    image, gate = list(traced.graph.nodes)[:2]
    set_value(image, torch.empty(1, 2, 3, 3, device="meta"))
    value, last, scales = take_scales(traced, gate, may_move=True)
    assert (value, last.args, scales) == (image, (image, 2), [2])


def test_a_value_that_is_not_kept_stays_where_it_is() -> None:
    model = nn.Sequential(nn.Sigmoid(), nn.Dropout(0.5))
    graph = fx.symbolic_trace(model).graph
    image, gate, drop, output = graph.nodes
    set_value(image, torch.empty(1, 2, 3, 3, device="meta"))
    with graph.inserting_before(output):
        output.args = (graph.call_function(operator.mul, (3.0, drop)),)
    assert take_scales(model, gate, may_move=False) == (image, gate, [])
    value, last, scales = take_scales(model, gate, may_move=True)
    assert (value, last.target, scales, drop.args) == (drop, operator.mul, [3.0], (image,))
