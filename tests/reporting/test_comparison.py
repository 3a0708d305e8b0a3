"""The Pareto front by hand, and a comparison of real injections into toy nets and resnet50."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch
from rich.console import Console
from torch import nn

from attn_inject import AttnInjectError, inject, report
from attn_inject.attention.sk import SK
from attn_inject.planning.choices import Choices
from attn_inject.reporting import schema
from attn_inject.reporting.comparing import Comparison, compare, shown
from attn_inject.reporting.comparison import Candidate, comparison
from attn_inject.reporting.settings import ReportSettings
from attn_inject.zoo.cifar import models

from .. import toys
from ..parted import SCOPES, parted
from .conftest import Net
from .test_views import assert_golden

COUNTED = ReportSettings(bench=False)


def measured(ratio: float, width: float = 0.02, confidence: float = 0.95) -> dict[str, float | int]:
    return {
        "ratio_low": round(ratio - width / 2, 6),
        "ratio_high": round(ratio + width / 2, 6),
        "confidence": confidence,
        "pairs": 40,
    }


def candidates(*rows: tuple[str, int, int, float | None], model: str = "net") -> list[Candidate]:
    return [
        Candidate(
            model,
            name,
            "standard",
            4,
            parameters=p,
            macs=f // 2,
            flops=f,
            seconds=s,
            ratio=s and s * 10,
            **({} if s is None or name == "none" else measured(s * 10)),
        )
        for name, p, f, s in rows
    ]


ROWS = candidates(
    ("none", 100, 1000, 0.100), ("small", 101, 1100, 0.130), ("fast", 120, 1050, 0.110), ("worse", 125, 1060, 0.120)
)


def together(rows: list[Candidate]) -> Comparison:
    return shown(comparison(rows, device="CPU (Some Processor)", convention="all", units="decimal"))


def front(made: Comparison) -> list[str]:
    return [each.attention for each in made.candidates if each.on_front]


def test_the_front_is_what_no_other_attention_beats() -> None:
    made = together(ROWS)
    assert made.measure == "latency"
    assert front(made) == ["small", "fast"]


def test_a_star_needs_a_resolved_difference() -> None:
    """`fast` has more parameters than `small`: it is on the front only where it is faster beyond doubt."""
    assert front(together([*ROWS[:2], replace(ROWS[2], **measured(1.1, width=0.5))])) == ["small"]
    assert front(together([*ROWS[:2], replace(ROWS[2], **measured(1.1, confidence=0.5))])) == ["small"]


def test_what_was_not_resolved_is_an_interval_in_every_view() -> None:
    unsure = replace(ROWS[2], contended=True, **measured(1.1, width=0.5, confidence=0.5))
    made = together([*ROWS[:2], unsure])
    for text in (made.to_markdown(), printed(made)):
        assert "(0.85–1.35)" in text
        assert "1.100" not in text
        assert "110 ms" not in text
        flat = " ".join(text.split())
        assert "its 50 to 95 % (40 rounds) interval" in flat
        assert "An interval alone: not resolved" in flat
        assert "busy" in flat
    row = made.to_dict()["candidates"][2]
    assert (row["resolved"], row["confidence"], row["pairs"], row["contended"]) == (False, 0.5, 40, True)


@pytest.mark.parametrize(
    ("width", "missing"), [(120, set()), (100, {"MACs", "latency"}), (80, {"MACs", "latency", "sites", "FLOPs"})]
)
def test_columns_go_until_the_others_fit_and_a_models_name_stands_once(width: int, missing: set[str]) -> None:
    long = [replace(row, model="a_network_of_a_long_name") for row in ROWS]
    lines = printed(together([*ROWS, *long]), width).splitlines()
    assert max(map(len, lines)) <= width
    columns = {"sites", "params", "more", "MACs", "FLOPs", "traffic", "latency", "ratio", "front"}
    assert columns - set(lines[0].split()) == missing
    named = [line.split()[0] for line in lines[1 : 1 + 2 * len(ROWS)] if not line.startswith("  + ")]
    assert named == [ROWS[0].model, "a_network_of_a_long_name"]


def printed(made: Comparison, width: int = 120) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(made)
    return capture.get()


def test_models_are_compared_at_the_size_they_were_made_for() -> None:
    made = compare("cifar:resnet20", ["eca"], settings=COUNTED)
    plain, _ = made.candidates
    assert str(made).split() == printed(made, width=80).split()
    with torch.device("meta"):
        network = models()["resnet20"]()
    patched = inject(network, "eca", input_size=(3, 32, 32))
    assert plain.macs == report(network, patched, bench=False).total("MACs").before


def test_candidates_run_in_turns_with_each_other() -> None:
    wishes = [Choices(attention=name, input_size=(3, 32, 32)) for name in ("se", "eca")]
    said: list[float] = []
    made = compare(
        [Net(), Net()], wishes, settings=ReportSettings(bench_seconds=0.05, device="cpu", threads=1),
        progress=lambda _, share: said.append(share),
    )  # fmt: skip
    assert len(made.candidates) == 6
    for at in (0, 3):
        plain, se, eca = made.candidates[at : at + 3]
        assert plain.ratio == 1
        assert plain.pairs == se.pairs == eca.pairs
        assert se.seconds == pytest.approx(plain.seconds * se.ratio)
        assert se.ratio_low <= se.ratio <= se.ratio_high
    assert said == sorted(said)
    assert "1 thread" in str(made.device)


def test_parts_run_in_turns_with_those_of_the_same_part() -> None:
    settings = ReportSettings(bench_seconds=0.02, device="cpu")
    sizes = {SCOPES[0]: (3, 16, 16), SCOPES[1]: (16, 16, 16)}
    for scopes in ((SCOPES[0], SCOPES[0]), SCOPES[:2]):
        wishes = [
            Choices(attention=name, scope=scope, input_size=sizes[scope])
            for name, scope in zip(("se", "eca"), scopes, strict=True)
        ]
        made = compare(parted(), wishes, settings=settings)
        assert [each.attention for each in made.candidates if each.ratio is not None] == ["none", "se", "eca"]


def test_without_all_timings_flops_decide() -> None:
    made = together([*ROWS[:3], replace(ROWS[3], seconds=None, parameters=120, flops=1049)])
    assert made.measure == "FLOPs"
    assert front(made) == ["small", "worse"]


def test_equal_candidates_share_the_front() -> None:
    twin = replace(ROWS[2], attention="twin")
    assert front(together([ROWS[0], ROWS[2], twin])) == ["fast", "twin"]


def test_models_have_fronts_of_their_own() -> None:
    larger = [replace(each, model="larger", parameters=1000 + (each.parameters or 0)) for each in ROWS]
    assert front(together([*ROWS, *larger])) == ["small", "fast"] * 2


def test_what_could_not_be_made_is_listed_and_never_on_the_front() -> None:
    made = together([*ROWS, Candidate("net", "psa", "pre", problem="no room")])
    assert not made.candidates[-1].on_front
    assert "net + psa (pre): no room" in made.to_markdown()


def test_views(tmp_path: Path) -> None:
    made = together([*ROWS, Candidate("net", "psa", "pre", problem="no room")])
    assert_golden("comparison.md", made.to_markdown())
    made.plot(tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    jsonschema.validate(json.loads(made.to_json()), schema.COMPARISON, cls=jsonschema.Draft202012Validator)


def test_the_page_has_the_table_the_chart_and_what_could_not_be_made() -> None:
    evil = "<script>alert(1)</script>"
    made = together([*ROWS, Candidate("net", evil, "pre", problem="no room")])
    page = made.to_html()
    assert "<title>net: attentions side by side</title>" in page
    assert evil not in page
    assert "alert(1)&lt;/script&gt; (pre): no room" in page
    assert page.count("<svg") == 1
    for row in ROWS[1:]:
        assert f"<td>{row.attention}</td>" in page
    assert "1.300 (1.290–1.310)" in page
    assert made._repr_html_().startswith("<iframe ")


def test_attentions_and_placements_of_a_model() -> None:
    net = Net()
    made = compare(
        net,
        [
            Choices(attention=name, placement=placement, input_size=(3, 32, 32))
            for name in ("se", "eca")
            for placement in ("standard", "identity")
        ],
        settings=COUNTED,
    )
    plain, *others = made.candidates
    assert (plain.attention, plain.parameters) == ("none", sum(p.numel() for p in net.parameters()))
    assert [each.label for each in others] == ["se", "se (identity)", "eca", "eca (identity)"]
    assert all(each.sites == 3 and each.parameters > plain.parameters for each in others)


def test_combinations_that_do_not_exist_do_not_stop_the_others() -> None:
    made = compare(
        Net(),
        [Choices(attention=name, input_size=(3, 32, 32)) for name in ("eca", "timm:nonsense")],
        settings=COUNTED,
    )
    problems = {each.attention: each.problem for each in made.candidates}
    assert problems["eca"] is None
    assert problems["timm:nonsense"]


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(AttnInjectError, match="nothing to compare"):
        compare(nn.Sequential(nn.Linear(3, 3)), [Choices(attention="se", input_size=(3,))], settings=COUNTED)


def test_resnet50_without_benchmark_needs_no_weights() -> None:
    """+2,514,944 for SE without biases at r = 16, +86 for adaptive ECA (counted)."""
    made = compare("torchvision:resnet50", ["se", "eca"], settings=COUNTED)
    plain, se, eca = made.candidates
    assert plain.parameters == 25_557_032
    assert se.parameters - plain.parameters == 2_514_944
    assert eca.parameters - plain.parameters == 86
    assert eca.on_front
    assert not se.on_front


def _bottleneck() -> nn.Module:
    """One spatial convolution between two pointwise ones."""
    block = toys.Lambda(
        lambda m, x: x + m.last(torch.relu(m.middle(torch.relu(m.first(x))))),
        first=toys.conv(16, 8, 1),
        middle=toys.conv(8, 8),
        last=toys.conv(8, 16, 1),
    )
    return toys.Toy(block)


@pytest.mark.parametrize("name", ["psa", "sk:groups=4"])
def test_what_its_paper_has_in_the_place_of_convolutions_comes_with_that(name: str) -> None:
    net = _bottleneck()
    here, there = (
        Choices(attention=name, placement=place, input_size=(3, 16, 16)) for place in ("standard", "replace")
    )
    plain, se, made = compare(net, [replace(here, attention="se"), here], settings=COUNTED).candidates
    _, meant = compare(net, [there], settings=COUNTED).candidates
    assert (plain.as_published, se.as_published, meant.as_published) == (None, None, None)
    assert made.as_published == meant.parameters != made.parameters
    # Beside what it would say there is nothing to say.
    both = compare(net, [here, there], settings=COUNTED).candidates
    assert [each.as_published for each in both] == [None] * 3


def test_no_other_place_where_there_is_none_or_no_paper() -> None:
    class Own(SK):
        """Fits convolutions, and has no paper."""

    for net, attention in ((toys.Toy(toys.Block(toys.SPELLINGS["+"])), "psa"), (_bottleneck(), Own)):
        _, made = compare(net, [Choices(attention=attention, input_size=(3, 16, 16))], settings=COUNTED).candidates
        assert (made.problem, made.as_published) == (None, None)


def test_views_say_what_it_adds_where_its_paper_has_it() -> None:
    """EPSANet-50 has 22.56 M parameters, ResNet-50 25.56 M."""
    rows = candidates(("none", 25_560_000, 8, None), ("psa", 158_700_000, 50, None), ("se", 28_070_000, 9, None))
    rows[1] = replace(rows[1], as_published=22_560_000)
    made = shown(comparison(rows, device=None, convention="all", units="decimal"))
    told = "psa as its paper uses it: --placement replace, -11.7 % params."
    for text in (printed(made), made.to_markdown(), made.to_html()):
        assert text.count("as its paper uses it") == 1
        assert told in " ".join(text.split())
    jsonschema.validate(json.loads(made.to_json()), schema.COMPARISON, cls=jsonschema.Draft202012Validator)
    rows += candidates(("none", 100, 8, None), model="other")
    several = shown(comparison(rows, device=None, convention="all", units="decimal"))
    assert f"net + {told}" in several.to_markdown()
