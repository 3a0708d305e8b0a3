"""Where a model is cut into blocks, and that their costs are those of the whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import attn_inject
from attn_inject.reporting.data import BlockRow
from attn_inject.reporting.report import Report

from .conftest import Block


def shown(report: Report) -> list[tuple[tuple[str, ...], int | None, int]]:
    return [(row.paths, row.stage, len(row.sites)) for row in report.blocks]


def report_of(model: nn.Module) -> Report:
    patched = attn_inject.inject(model, "se", reduction=4, existing="replace", input_size=(3, 16, 16))
    return attn_inject.report(model, patched, bench=False)


def total(rows: tuple[BlockRow, ...], name: str) -> int:
    return sum(getattr(row.cost, name) for row in rows)


def test_every_block_has_a_row_and_they_add_up(made: Report) -> None:
    assert shown(made) == [
        (("stem",), 1, 0),
        (("blocks.0",), 1, 1),
        (("blocks.1",), 1, 1),
        (("blocks.2",), 2, 1),
        (("head",), None, 0),
    ]
    assert total(made.blocks, "macs") == made.total("MACs").before
    assert total(made.blocks, "parameters") == made.total("parameters").before
    assert [row.added for row in made.blocks if row.sites] == [row.added for row in made.sites]


class Called(nn.Module):
    """Layers in a row, a stage whose `forward` is called as a method, a list, one layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.bn = nn.BatchNorm2d(8)
        self.act = nn.ReLU()
        self.stage = nn.Sequential(Block(8), Block(8))
        self.late = nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU())
        self.tail = nn.ModuleList([nn.Conv2d(16, 16, 1), nn.Identity()])
        self.again = self.tail[0]
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage(self.act(self.bn(self.conv(x))))
        return self.again(self.tail[0](self.late.forward(x)))


def test_containers_lists_and_methods_are_cut_to_what_runs() -> None:
    torch.manual_seed(0)
    model = Called()
    made = report_of(model)
    assert shown(made) == [
        (("conv", "bn", "act"), 1, 0),
        (("stage.0",), 1, 1),
        (("stage.1",), 1, 1),
        (("late.0", "late.1"), 1, 0),
        (("tail.0",), 1, 0),
    ]
    assert total(made.blocks, "macs") == made.total("MACs").before


class Functional(nn.Module):
    """All its adds are its own: no module is a block."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, 1, 1)
        self.b = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.down = nn.Conv2d(8, 16, 3, 2, 1)
        self.c = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = torch.relu(x + self.b(x))
        x = self.down(x)
        return torch.relu(x + self.c(x))


def test_a_site_between_blocks_has_a_row_after_its_stage() -> None:
    torch.manual_seed(0)
    model = Functional()
    made = report_of(model)
    assert shown(made) == [
        (("a",), 0, 0),
        (("b",), 0, 0),
        (("",), 0, 1),
        (("down",), 1, 0),
        (("c",), 1, 0),
        (("",), 1, 1),
    ]


class Gate(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class Gated(nn.Module):
    """An inverted residual with a gate in the sequence of its branch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1), Gate(channels), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def test_attention_that_is_replaced_marks_the_block_around_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), Gated(8), Gated(8), nn.Conv2d(8, 8, 1))
    made = report_of(model)
    assert shown(made) == [(("0",), 1, 0), (("1",), 1, 1), (("2",), 1, 1), (("3",), 1, 0)]
    # The new modules stand beside the old; equal blocks share one diff, whatever their paths.
    assert [diff.blocks for diff in made.diffs] == [("1.branch.1", "2.branch.1")]
    assert any(line.text.endswith("= parent.se(x)") for line in made.diffs[0].lines)


class Long(nn.Module):
    """Many operations in the forward of one block, and one add."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(8, 8, 1) for _ in range(40)])

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers:
            y = torch.relu(layer(y))
        return torch.relu(x + self.layers[0](y))


def test_of_a_large_block_what_lies_near_the_change_is_drawn() -> None:
    torch.manual_seed(0)
    made = report_of(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), Long(), nn.Conv2d(8, 8, 1)))
    (diff,) = made.diffs
    labels = [node.label for node in diff.after]
    assert len(labels) < 12
    assert labels.count("…") == 1
    assert {"se", "+"} <= set(labels)
    names = {node.name for node in diff.after}
    assert all(set(node.reads) <= names for node in diff.after if node.label != "…")
