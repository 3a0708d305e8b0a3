"""Reports on models of which several submodules were patched: one report on the whole, everything by its full path."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import torch
from torch import nn

import attn_inject
from attn_inject import PlanError, attach, inject, report
from attn_inject.reporting import schema
from attn_inject.reporting.views.console import to_text
from attn_inject.types import Source

from ..parted import SCOPES, Part, parted
from ..toys import conv
from .test_report import assert_adds_up

SIZE = (3, 16, 16)
CHANNELS = {"encoder": 3, "inner.decoder": 16, "inner.last": 16}


def patched(model: nn.Module, scopes: tuple[str, ...] = SCOPES, verb: Any = inject, **options: Any) -> nn.Module:
    for scope in scopes:
        wishes = {"attention": "se", "reduction": 4} if scope != "inner.decoder" else {"attention": "eca"}
        model = verb(model, scope=scope, input_size=(CHANNELS[scope], 16, 16), **{**wishes, **options})
    return model


@pytest.mark.parametrize("verb", [inject, attach])
def test_it_is_about_the_whole_and_names_everything_by_its_path_there(verb: Any) -> None:
    model = parted()
    # A site of the last part has another size in the whole than on the input that the part was traced with.
    made = report(model, patched(model, verb=verb), bench=False, input_size=(3, 24, 24))
    assert made.title == "Parted + se (encoder, inner.last) + eca (inner.decoder)"
    assert made.input_size == (3, 24, 24)
    assert [(row.block, row.module, row.size, row.stage) for row in made.sites] == [
        ("encoder", "encoder.se", (24, 24), 0),
        ("inner.decoder", "inner.decoder.eca", (24, 24), 0),
        ("inner.last", "inner.last.se", (24, 24), 0),
    ]
    assert [row.added.parameters for row in made.sites] == [2 * 16 * 4, 3, 2 * 16 * 4]
    assert made.total("parameters").before == sum(p.numel() for p in model.parameters())
    convolutions = 9 * (3 * 16 + 2 * 16 * 16) + 2 * 9 * 3 * 16 * 16 + 16 * 2
    assert made.total("MACs").before == 24 * 24 * convolutions
    assert_adds_up(made)
    jsonschema.validate(json.loads(made.to_json()), schema.REPORT)
    assert "inner.decoder" in to_text(made)


def test_it_counts_on_what_the_whole_is_made_for() -> None:
    model = parted()
    made = report(model, patched(model, SCOPES[:2]), bench=False)
    assert made.input_size == (3, 224, 224)
    given = report(model, patched(model, SCOPES[:2]), bench=False, example_inputs=torch.randn(2, *SIZE))
    assert given.input_size == SIZE
    assert [row.size for row in given.sites] == [(16, 16)] * 2
    assert_adds_up(given)


class Net(nn.Module):
    """Its second part works on maps a quarter of the image's size, and asks for that size."""

    first: nn.Module
    second: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.first = Part(3)
        self.down = conv(16, 16, s=2)
        self.second = Asking(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.second(self.down(self.first(x)))
        return made


class Asking(Part):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] % 2:
            raise ValueError("odd")
        return super().forward(x)


class Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.enter, self.spatial, self.leave = conv(channels, width, 1), conv(width, width), conv(width, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.leave(self.spatial(self.enter(x).relu()).relu())
        return x + made


class Bottlenecks(Net):
    """Each part is a narrow block and a wide one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Sequential(conv(channels, 16), Bottleneck(16, 16), conv(16, 64), Bottleneck(64, 16), conv(64, 16))
            for channels in (3, 16)
        )


def in_both(made: type[Net] = Net, **options: Any) -> tuple[nn.Module, nn.Module]:
    model = made()
    once: nn.Module = inject(model, scope="first", input_size=(3, 32, 32), **options)
    return model, inject(once, scope="second", input_size=(16, 16, 16), **options)


def test_stages_are_counted_from_the_wholes_input() -> None:
    model, both = in_both(attention="eca")
    made = report(model, both, bench=False, input_size=(3, 32, 32))
    assert [(row.module, row.size, row.stage) for row in made.sites] == [
        ("first.eca", (32, 32), 0),
        ("second.eca", (16, 16), 1),
    ]
    assert [(row.stage, row.sites, row.added.parameters) for row in made.stages] == [(0, 1, 3), (1, 1, 3)]
    assert [guard.outcome for guard in made.guards] == ["False"]
    assert made.title == "Net + eca (first, second)"
    alone = report(model.get_submodule("second"), both.get_submodule("second"), bench=False)
    assert [(row.module, row.stage) for row in alone.sites] == [("eca", 0)]


def test_what_is_said_of_the_parts_is_said_once_with_their_names() -> None:
    model, both = in_both(Bottlenecks, attention="se", reduction=32, init="identity")
    made = report(model, both, bench=False, input_size=(3, 32, 32))
    narrow = "se: 1 of 2 sites narrower than the reduction 32: hidden width 1 (1.se)"
    assert narrow in report(model.get_submodule("first"), both.get_submodule("first"), bench=False).notes
    assert made.notes == (f"first, second: {narrow}",)
    for check in made.checks:
        assert check.passed
        assert check.figure.startswith("first: ")
        assert "; second: " in check.figure
    # The two blocks have the same code.
    assert [diff.blocks for diff in made.diffs] == [("first.1", "first.3", "second.1", "second.3")]
    assert made.versions == both.get_submodule("first").injection.versions


def test_what_is_replaced_in_a_part_is_taken_off() -> None:
    model, both = in_both(Bottlenecks, attention="psa", placement="replace")
    made = report(model, both, bench=False, input_size=(3, 32, 32))
    for row in made.sites:
        assert row.replaces is not None
        assert row.replaces.endswith(".spatial")
        held, gone = (m.get_submodule(p) for m, p in ((both, row.module), (model, row.replaces)))
        counts = [sum(p.numel() for p in module.parameters()) for module in (held, gone)]
        assert row.added.parameters == counts[0] - counts[1] != 0
    assert_adds_up(made)


def test_a_part_without_its_attention_is_named_so() -> None:
    model = Net()
    gated: Any = attach(model, "se", reduction=4, scope="first", input_size=(3, 32, 32))
    made = report(model, gated, bench=False)
    assert made.title == "Net (first) + se"
    assert [row.module for row in made.sites] == ["se"]
    assert_adds_up(made)
    with pytest.raises(PlanError, match="every chosen block already has attention"):
        attach(gated, "eca", scope="first", input_size=(3, 32, 32))


def test_a_source_is_its_name() -> None:
    model = Net()
    _, both = in_both(attention="eca", source=Source("module", "nets:net"))
    assert report(model, both, bench=False, input_size=(3, 32, 32)).title == "nets:net + eca (first, second)"


def test_its_parts_are_timed() -> None:
    model = parted()
    made = report(model, patched(model), input_size=SIZE, bench_seconds=0.1, training=True, device="cpu", batch=2)
    assert [speed.task for speed in made.speeds] == ["inference", "training step"]
    assert all(row.seconds is not None for row in made.sites)


def test_a_whole_that_decides_on_data_is_counted_on_one_run_and_says_so() -> None:
    class Choosing(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = super().forward(x)
            return made[made > 0]

    model = Choosing()
    both: nn.Module = model
    for scope, channels in (("first", 3), ("second", 16)):
        both = inject(both, "eca", scope=scope, input_size=(channels, 16, 16))
    made = report(model, both, bench=False)
    said = "counted on one run with random values, since the model's code decides on data: other data cost otherwise"
    assert said in made.notes
    assert made.total("MACs").difference == sum(row.added.macs for row in made.sites) > 0
    parts = [report(model.get_submodule(each), both.get_submodule(each), bench=False) for each in ("first", "second")]
    assert [row.added.macs for row in made.sites] == [row.added.macs for part in parts for row in part.sites]
    assert not any(said in part.notes for part in parts)
    with pytest.raises(PlanError, match=r"^first is patched, and Part has no such submodule"):
        report(Part(3), inject(model, "eca", scope="first", input_size=SIZE), bench=False)
    assert attn_inject.report(model.first, both.get_submodule("first"), bench=False).sites
