from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attn_inject.attention import registry as attention
from attn_inject.errors import PlanError
from attn_inject.planning.choices import Choices
from attn_inject.planning.plan import locate_and_plan
from attn_inject.planning.recipe import MAX_BYTES, Recipe, load_recipe, names, parse_recipe
from attn_inject.zoo.building import build
from attn_inject.zoo.parsing import parse_source
from attn_inject.zoo.sizes import input_size

SOUND = """
name = "n"
title = "t"
paper = "p"
model = "resnet18"
attention = "se"
expect_sites = 8
expect_parameters = 10
"""


def test_every_key_reaches_the_recipe() -> None:
    recipe = parse_recipe(
        (
            SOUND
            + """
note = "why"
placement = "pre"
kinds = ["residual"]
include = ["layer*"]
exclude = ["layer1.*"]
stages = [3, 4]
every = 2
min_channels = 64
scope = "backbone"
init = "identity"
existing = "skip"
preset = "timm"
input_size = [3, 64, 64]
[model_args]
num_classes = 7
[options]
reduction = 4
kernels = [3, 5]
[stage_options.4]
k = 7
"""
        ).encode()
    )
    assert recipe == Recipe(
        name="n",
        title="t",
        paper="p",
        model="resnet18",
        expect_sites=8,
        expect_parameters=10,
        note="why",
        model_args={"num_classes": 7},
        choices=Choices(
            attention="se",
            options={"reduction": 4, "kernels": [3, 5]},
            input_size=(3, 64, 64),
            kinds=("residual",),
            placement="pre",
            include=("layer*",),
            exclude=("layer1.*",),
            stages=(3, 4),
            every=2,
            min_channels=64,
            stage_options={4: {"k": 7}},
            scope="backbone",
            init="identity",
            existing="skip",
            preset="timm",
        ),
    )


@pytest.mark.parametrize("key", ["input_size", "stages", "kinds", "include", "exclude"])
def test_a_list_may_be_of_one_thing_and_not_of_none(key: str) -> None:
    one = {"input_size": "64", "stages": "3"}.get(key, '"residual"')
    choices = parse_recipe((SOUND + f"{key} = [{one}]").encode()).choices
    assert len(getattr(choices, key)) == 1
    with pytest.raises(PlanError, match=f"{key} must be a list of 1 to"):
        parse_recipe((SOUND + f"{key} = []").encode())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SOUND + 'placment = "pre"', "the recipe has an unknown key 'placment' (did you mean placement?)"),
        (SOUND + "zzz = 1", "the recipe has an unknown key 'zzz'"),
        (SOUND + '"a\\nb" = 1', "the recipe has an unknown key 'a\\nb'"),
        (SOUND.replace('paper = "p"', ""), "the recipe lacks paper"),
        (SOUND.replace("= 8", "= 8.0"), "the recipe: expect_sites must be a whole number from 0, got 8.0"),
        (SOUND.replace("= 8", "= true"), "expect_sites must be a whole number from 0, got True"),
        (SOUND.replace("= 8", "= -1"), "expect_sites must be a whole number from 0, got -1"),
        (SOUND.replace('"p"', '" "'), "paper must be a text that is not blank"),
        (SOUND + 'placement = "stanard"', "got 'stanard' (did you mean standard?)"),
        (SOUND + "kinds = []", "kinds must be a list of 1 to 20,000 items"),
        (SOUND + 'kinds = ["residual", "x"]', "kinds 1 must be one of residual, mixed"),
        (SOUND + 'include = ["layer1.*", ""]', "include 1 must be a text that is not blank"),
        (SOUND + "every = 0", "every must be a whole number from 1, got 0"),
        (SOUND + "[options]\nx = nan", "options x must be a finite number"),
        (SOUND + "[options]\nx = inf", "options x must be a finite number"),
        (SOUND + "[model_args]\nx = 2020-01-01", "model_args x must be plain data, not date"),
        (SOUND + '[options]\n"a b" = 1', "options has a key that is no name: 'a b'"),
        (SOUND + "[options]\n" + ".".join("a" * 5000) + " = 1", "options a is nested or long beyond any use"),
        (
            SOUND + "[stage_options.four]\nk = 3",
            "stage_options must have the numbers of stages as its keys, not 'four'",
        ),
        (SOUND + f"[stage_options.{'1' * 5000}]\nk = 3", "stage_options must have the numbers of stages as"),
        (SOUND + "[stage_options.4]\nk = inf", "stage_options 4 k must be a finite number"),
        (SOUND + "[stage_options]\n4 = {}\n04 = {}", "stage_options names a stage twice"),
        (SOUND + f"every = {'1' * 5000}", "the recipe is no valid TOML"),
        ("name = ", "the recipe is no valid TOML"),
        ("a = " + "[" * 100_000, "the recipe is no valid TOML"),
    ],
)
def test_a_faulty_recipe_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_recipe(text.encode())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, len(SOUND)), st.integers(0, 20))
def test_whatever_the_bytes_only_a_plan_error_comes_out(noise: bytes, at: int, cut: int) -> None:
    text = SOUND.encode()
    try:
        recipe = parse_recipe(text[:at] + noise + text[at + cut :])
    except PlanError:
        return
    assert isinstance(recipe, Recipe)


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "long.toml").write_bytes(b"#" * (MAX_BYTES + 1))
    (tmp_path / "folder.toml").mkdir()
    for name, message in (("long", "longer than"), ("folder", "cannot be read"), ("absent", "cannot be read")):
        with pytest.raises(PlanError, match=message):
            load_recipe(tmp_path / f"{name}.toml")
    with pytest.raises(PlanError, match="cannot be read"):
        load_recipe("nul\0.toml")


def test_a_recipe_from_a_users_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(SOUND)
    assert load_recipe(tmp_path / "mine.toml").name == "n"


def test_an_unknown_name_tells_the_nearest() -> None:
    with pytest.raises(PlanError, match="no recipe 'se-resnet5': there are se-resnet50"):
        load_recipe("se-resnet5")
    with pytest.raises(PlanError, match="no recipe"):
        load_recipe("../pyproject")


def test_expectations_are_checked() -> None:
    recipe = parse_recipe(SOUND.encode())
    recipe.must_match(8, 10)
    with pytest.raises(PlanError, match="recipe n expects 8 sites, and here are 7"):
        recipe.must_match(7, 10)
    with pytest.raises(PlanError, match="recipe n expects 10 parameters, and here are 1,234"):
        recipe.must_match(8, 1234)


@pytest.mark.parametrize("name", names())
def test_a_shipped_recipe_is_sound_and_bears_its_files_name(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert "arXiv" in recipe.paper


def test_reading_recipes_imports_no_torch() -> None:
    code = (
        "import sys; from attn_inject.planning.recipe import names, load_recipe; [load_recipe(n) for n in names()];"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.zoo] * any(depth in name for depth in ("101", "152"))) for name in names()],
)
def test_a_shipped_recipe_comes_to_its_papers_figures(name: str) -> None:
    # Planned on the meta device: each new module is built there, and what it replaces is taken off.
    recipe = load_recipe(name)
    source = parse_source(recipe.model, model_args=recipe.model_args)
    model = build(source, device="meta")
    size = recipe.choices.input_size or input_size(model, source)
    plan = locate_and_plan(model, replace(recipe.choices, input_size=size))[1]
    parameters = size_of(model)
    with torch.device("meta"):
        for made in plan.insertions:
            parameters += size_of(attention.build(made.attention, made.channels, options=made.options))
            parameters -= size_of(model.get_submodule(made.replaces)) if made.replaces else 0
    recipe.must_match(len(plan.insertions), parameters)


def size_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
