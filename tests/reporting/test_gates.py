"""The gates' views: whole-text goldens with fixed figures, the JSON against its schema, the page and the charts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import jsonschema
import pytest

from attn_inject import AttnInjectError
from attn_inject.reporting import study_schema
from attn_inject.reporting.gates import Gates, gates
from attn_inject.reporting.views.gates_plot import charts
from attn_inject.reporting.views.gates_text import to_text
from attn_inject.studying.data import ChannelFigures, GateRow, SelectiveChannel
from attn_inject.surgery.folding import Folding, Pace
from attn_inject.types import Effect
from tests.studying.planted import batches, planted

from .test_views import assert_golden


def _row(block: str, stage: int, weight: float, movement: float, between: float, frozen: float) -> GateRow:
    return GateRow(
        block, "residual", stage, 2, (8, 8), 1, "standard", "se", f"{block}.se", "gate", 1.0, weight, movement,
        0.0, 0.5, between, tuple(weight + index / 100 for index in range(11)),
        ChannelFigures((weight, None), (0.1, None), (0.0, None), (0.5, None), (between, None)),
        (SelectiveChannel(0, between, (weight, weight / 2)),) if between else (),
        Effect(frozen, frozen - 0.01, frozen + 0.01), Effect(frozen + 0.1, frozen + 0.05, frozen + 0.15),
    )  # fmt: skip


@pytest.fixture
def found() -> Gates:
    """Figures that no machine has a say in: a site of every verdict."""
    return Gates(
        title="torchvision:resnet50 + se",
        data="images of val",
        synthetic=False,
        images=1200,
        classes=(0, 1),
        sites=(
            _row("layer1.0", 2, 0.5, 0.004, 0.0, 0.0),
            _row("layer1.1", 2, 0.52, 0.034, 0.02, 0.0),
            _row("layer2.0", 3, 0.61, 0.21, 0.71, 0.023),
            _row("layer2.1", 3, 0.64, 0.2, 0.68, -0.02),
        ),
        measure="accuracy",
        score=0.753,
        ablated_images=1200,
        notes=("the first 128 classes were followed",),
    )


def test_terminal(found: Gates) -> None:
    text = to_text(found)
    assert max(map(len, text.splitlines())) <= 80
    assert text == str(found)
    assert_golden("gates.txt", text)


def test_wide_terminal_in_full_has_intervals(found: Gates) -> None:
    text = to_text(found, full=True, width=120)
    assert max(map(len, text.splitlines())) <= 120
    assert_golden("gates-full-120.txt", text)


def test_the_legend_speaks_of_intervals_where_they_are_shown(found: Gates) -> None:
    said = "Intervals hold together at 95 %"
    shown = {
        (full, width): said in " ".join(to_text(found, full=full, width=width).split())
        for full in (False, True)
        for width in (80, 120)
    }
    assert shown == {(False, 80): False, (False, 120): False, (True, 80): False, (True, 120): True}
    assert said in found.to_html()
    sites = tuple(replace(row, frozen=Effect(0.1, None, None), without=None) for row in found.sites)
    none = replace(found, sites=sites)
    assert said not in none.to_html()


def test_the_legend_says_what_the_column_out_does_not_prove(found: Gates) -> None:
    said = "A loss without it does not prove that the attention helps: its interval may hold 0"
    assert said in " ".join(str(found).split())
    assert said in found.to_html()
    assert said not in " ".join(str(replace(found, measure="outputs")).split())
    sites = tuple(replace(row, without=None) for row in found.sites)
    assert said not in " ".join(str(replace(found, sites=sites)).split())


def test_without_classes_and_effects_the_columns_are_not_there(found: Gates) -> None:
    sites = tuple(replace(row, frozen=None, without=None, between=None) for row in found.sites)
    text = str(replace(found, sites=sites, classes=(), measure="outputs", score=None))
    assert "frozen" not in text
    assert "class" not in text.replace("classes were", "")
    assert "accuracy" not in text


def test_noise_is_named_in_every_view(found: Gates, tmp_path: Path) -> None:
    noise = replace(found, synthetic=True)
    assert "SYNTHETIC NOISE" in str(noise)
    assert "nothing here says what the gates do on images" in " ".join(str(noise).split())
    assert "SYNTHETIC NOISE" in noise.to_html()
    assert noise.to_dict()["synthetic"] is True
    noise.plot(tmp_path / "noise.svg")
    assert "SYNTHETIC NOISE" in (tmp_path / "noise.svg").read_text()


@pytest.mark.parametrize("measure", ["accuracy", "loss", "outputs"])
def test_effects_name_their_measure(found: Gates, measure: str) -> None:
    said = {"accuracy": "points of accuracy lost", "loss": "loss added", "outputs": "% by which the outputs change"}
    assert said[measure] in " ".join(str(replace(found, measure=measure)).split())


def test_json_is_what_the_schema_says(found: Gates) -> None:
    jsonschema.Draft202012Validator.check_schema(study_schema.GATES)
    for each in (found, gates(planted(), batches(40)), gates(planted(), [x for x, _ in batches(40)], ablation=False)):
        data = json.loads(each.to_json())
        jsonschema.validate(data, study_schema.GATES)
        assert [row["verdict"] for row in data["sites"]] == [row.verdict(each.measure) for row in each.sites]


def test_the_page_needs_nothing_else_and_shows_every_site(found: Gates, tmp_path: Path) -> None:
    page = found.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == page
    assert not re.search(r"(src|href)=.https?:", re.sub(r"xlink:href|rdf:resource", "", page))
    for row in found.sites:
        assert f"<td>{row.block}</td>" in page
    assert page.count("<svg") == len(charts(found)) == 5
    assert "the first 128 classes were followed" in unescape(page)
    assert "<iframe" in found._repr_html_()


def test_what_was_folded_is_in_every_view_with_its_measure(found: Gates) -> None:
    folding = Folding(
        folded=("layer1.0", "layer1.1"), kept=(("layer2.0", "3.1 points of accuracy would be lost, up to 4"),),
        tolerance=0.01, error=Effect(0.002, -0.003, 0.008), images=600, parameters=(1500, 1200), measure="accuracy",
    )  # fmt: skip
    with_it = replace(found, folding=folding)
    said = (
        "folded 2 of 3 sites: layer1.0, layer1.1",
        "0.2 points of accuracy lost (-0.3 to 0.8) on 600 images kept aside; up to 1 was allowed",
        "judged by the share of right answers; nothing is promised beyond images like those kept aside",
        "parameters 1,500 → 1,200",
    )
    text, page = " ".join(str(with_it).split()), unescape(with_it.to_html())
    assert max(map(len, str(with_it).splitlines())) <= 80
    for sentence in said:
        assert sentence in text
        assert sentence in page
    assert "not folded: layer2.0: 3.1 points of accuracy would be lost" in text
    assert "<td>layer2.0</td><td>3.1 points" in page
    data = with_it.to_dict()
    jsonschema.validate(json.loads(with_it.to_json()), study_schema.GATES)
    assert data["folding"]["error"] == {"mean": 0.002, "low": -0.003, "high": 0.008}
    assert data["folding"]["speed"] is None
    few = replace(folding, measure="outputs", error=Effect(-0.0, None, None), images=8)
    few_text = " ".join(str(replace(found, folding=few)).split())
    assert "outputs change by 0 % on 8 images kept aside; up to 1 % was allowed" in few_text
    alone = "judged by the mean relative change of the outputs, without an interval, since 8 images are few"
    assert alone in few_text
    assert alone in unescape(replace(found, folding=few).to_html())
    assert "are few" not in text
    pace = Pace(0.2, 0.1, 0.5, 0.45, 0.55, 0.95, 30, contended=False)
    raced = replace(found, folding=replace(folding, speed=pace))
    jsonschema.validate(json.loads(raced.to_json()), study_schema.GATES)
    busy = replace(found, folding=replace(folding, speed=replace(pace, contended=True)))
    busy_text = " ".join(str(busy).split())
    assert "not resolved: between 0.45 and 0.55 (30 pairs, 95 %), while other work" in busy_text
    assert "a longer measurement or a quiet machine would tell" in busy_text
    assert "would tell" not in str(raced)
    assert raced.to_dict()["folding"]["speed"]["resolved"] is True
    assert "200 ms → 100 ms: 0.500 times the time (95 % interval 0.450 to 0.550" in " ".join(str(raced).split())


def test_names_of_blocks_are_text_on_the_page(found: Gates) -> None:
    bad = replace(found, sites=(replace(found.sites[0], block="<script>alert(1)</script>"),))
    assert "<script>alert" not in bad.to_html()


def test_charts_are_drawn_of_what_there_is(found: Gates, tmp_path: Path) -> None:
    found.plot(tmp_path / "gates.svg")
    assert "SYNTHETIC NOISE" not in (tmp_path / "gates.svg").read_text()
    plain = replace(found, sites=tuple(replace(row, between=None, frozen=None, selective=()) for row in found.sites))
    assert len(charts(plain)) == 2
    few = replace(plain, sites=tuple(replace(row, frozen=Effect(0.1, None, None)) for row in plain.sites))
    few.plot(tmp_path / "few.png")
    with pytest.raises(AttnInjectError, match="no site has weights"):
        replace(found, sites=tuple(replace(row, percentiles=(), frozen=None) for row in found.sites)).plot("x.png")
