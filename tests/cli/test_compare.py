"""`attn-inject compare` over what is no plain name of a model: recipes, and files that were saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torchvision

from attn_inject import compare, inject
from attn_inject.zoo.cifar import models

OWN = """
name = "narrow"
title = "A narrow network with SE"
paper = "none"
model = "cifar:resnet20"
attention = "se"
expect_sites = 9
expect_parameters = 1

[options]
reduction = 4
"""


def _rows(text: str) -> list[tuple[str, str, int]]:
    return [(each["model"], each["attention"], each["parameters"]) for each in json.loads(text)["candidates"]]


def test_recipes_go_into_their_own_models(cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.toml").write_text(OWN)
    ran = cli("compare", "cifar:resnet20", "-a", "eca", "--recipe", "own.toml", "--recipe", "eca-resnet18",
              "--no-bench", "--json", "-")  # fmt: skip
    assert (ran.code, ran.err) == (0, "")
    plain, narrow = models()["resnet20"](), inject(models()["resnet20"](), "se", reduction=4)
    rows = _rows(ran.out)
    assert [row[:2] for row in rows] == [
        ("resnet20", "none"),
        ("resnet20", "eca"),
        ("resnet20", "narrow"),
        ("resnet18", "none"),
        ("resnet18", "eca-resnet18"),
    ]
    assert rows[0][2] == sum(p.numel() for p in plain.parameters())
    assert rows[2][2] == sum(p.numel() for p in narrow.parameters())


@pytest.mark.slow
def test_a_file_is_held_against_its_model_without_the_attention(
    cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("resnet18", "-a", "se:reduction=8", "--no-bench", "--out", "n.pt").code == 0
    ran = cli("compare", "n.pt", "-a", "eca", "--no-bench", "--json", "-")
    assert (ran.code, ran.err) == (0, "")
    rows = _rows(ran.out)
    assert [row[:2] for row in rows] == [("n.pt", "none"), ("n.pt", "se"), ("n.pt", "eca")]
    plain = torchvision.models.resnet18()
    assert rows[0][2] == sum(p.numel() for p in plain.parameters())
    assert rows[1][2] == sum(p.numel() for p in inject(plain, "se", reduction=8).parameters())
    assert rows[2][2] == sum(p.numel() for p in inject(plain, "eca").parameters())


def test_what_is_missing_is_said(cli: Callable) -> None:
    for arguments, said in (
        ((), "--recipe NAME"),
        (("resnet18",), "--attention"),
        (("--recipe", "no-such"), "no recipe 'no-such'"),
        (("no.pt",), "no.pt"),
        # A recipe goes into its own model, and nothing would be left of this one.
        (("resnet18", "--recipe", "se-resnet50"), "nothing to compare resnet18 with: say which attention"),
    ):
        ran = cli("compare", *arguments, "--no-bench")
        assert (ran.code, ran.err.count("\n")) == (2, 1)
        assert said in ran.err


def test_models_with_names_and_a_patched_one_in_python() -> None:
    model = models()["resnet20"]()
    made = compare([("mine", inject(model, "se"))], bench=False)
    assert [(each.model, each.label) for each in made.candidates] == [("mine", "none"), ("mine", "se")]
    assert made.candidates[0].parameters == sum(p.numel() for p in model.parameters())
    assert [each.attention for each in compare(recipes=["eca-resnet18"], bench=False).candidates] == [
        "none",
        "eca-resnet18",
    ]


def test_what_is_named_twice_is_one_row(cli: Callable) -> None:
    model, se = "cifar:resnet20", "se:reduction=4"
    ran = cli("compare", model, model, "-a", se, "-a", se, "--no-bench", "--input-size", "32", "--json", "-")
    assert ran.code == 0, ran.err
    assert [row[1] for row in _rows(ran.out)] == ["none", se]
