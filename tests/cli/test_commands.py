"""The commands beside the main job."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm

from attn_inject import inject, save
from attn_inject.planning.recipe import names


def test_sites_shows_each_site_once(cli: Callable) -> None:
    ran = cli("sites", "resnet50")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "torchvision:resnet50, random weights: 16 sites"
    assert lines[2].split() == ["layer1.0", "residual", "2", "256", "56x56"]
    assert len(lines) == 2 + 16


def test_sites_says_why_not(cli: Callable) -> None:
    ran = cli("sites", "densenet121", "--why")
    assert ran.code == 0
    assert "0 sites" in ran.out
    assert "feature reuse" in " ".join(ran.out.split())
    assert max(len(line) for line in ran.out.splitlines()) <= 80


def test_sites_of_a_scope_and_of_other_kinds(cli: Callable, toy: str) -> None:
    assert "2 sites" in cli("sites", toy, "--scope", "blocks", "--input-size", "32x16x16").out
    assert "mixed" in cli("sites", "squeezenet1_0", "--kinds", "mixed").out


def test_a_model_without_sites(cli: Callable, toy: str) -> None:
    ran = cli("sites", "toy.py:plain", "--input-size", "32")
    assert ran.code == 2
    assert "toy.py:plain has no sites" in ran.err


def test_models_are_listed_as_they_are_to_be_typed(cli: Callable) -> None:
    listed = cli("models", "resnet50")
    assert listed.code == 0
    lines = [line.strip() for line in listed.out.splitlines()]
    assert {"resnet50", "timm:resnet50", "resnet50d", "torchvision (classification)"} <= set(lines)
    assert "timm:resnet50" in cli("models", "timm:resnet50").out
    assert cli("models", "no such").code == 2


def test_recipes_are_listed(cli: Callable) -> None:
    listed = cli("recipes").out
    assert all(f"  {name} " in listed for name in names())


def test_a_recipe_runs_and_is_checked(cli: Callable, toy: str, tmp_path: Path) -> None:
    text = (
        'name = "mine"\ntitle = "t"\npaper = "p"\nmodel = "toy.py:Net"\nattention = "se"\nexpect_sites = 2\n'
        "expect_parameters = {}\n[options]\nreduction = 4\n"
    )
    quick = ("--no-bench", "--input-size", "32")
    (tmp_path / "mine.toml").write_text(text.format(896 + 2 * 18_496 + 330 + 2 * 512))
    assert cli("--recipe", "mine.toml", *quick).code == 0
    assert cli("--recipe", "mine.toml", "--reduction", "8", *quick).code == 0, "options make it another network"
    (tmp_path / "mine.toml").write_text(text.format(1))
    ran = cli("--recipe", "mine.toml", "--out", "m.pt", *quick)
    assert ran.code == 2
    assert "recipe mine expects 1 parameters, and here are 39,242" in ran.err
    assert not (tmp_path / "m.pt").exists()


def test_inspect_says_what_a_file_is(cli: Callable, toy: str, tmp_path: Path) -> None:
    quick = ("--no-bench", "--input-size", "32")
    for file in ("m.pt", "m.safetensors"):
        assert cli(toy, "-a", "eca", "--k", "3", "--seed", "1", "--out", file, *quick).code == 0
        ran = cli("inspect", file)
        assert ran.code == 0
        lines = [" ".join(line.split()) for line in ran.out.splitlines()]
        assert lines[0].startswith(f"file {file} (")
        assert lines[1:4] == [
            "source toy.py:Net, random weights, seed 1",
            "attention eca, init paper",
            "2 x residual, 32 channels, standard, k=3",
        ]
        assert "6 of them new" in ran.out
        assert "verified edits" in " ".join(ran.out.split())


DECIDING = """
from toy import Block
from torch import nn

class Even(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 32, 3, padding=1), Block(32)

    def forward(self, x):
        x = self.body(self.stem(x))
        return x if x.shape[2] % 2 == 0 else -x

class Bright(Even):
    def forward(self, x):
        x = self.body(self.stem(x))
        return x if x.max() > 0 else -x
"""


@pytest.mark.parametrize("file", ["m.pt", "m.safetensors"])
def test_inspect_names_guards(cli: Callable, toy: str, file: str) -> None:
    Path("deciding.py").write_text(DECIDING)
    assert cli("deciding.py:Even", "-a", "eca", "--out", file, "--no-bench", "--input-size", "32").code == 0
    ran = cli("inspect", file)
    assert ran.code == 0
    (note,) = [line for line in ran.out.splitlines() if line.startswith("note")]
    assert "holds while " in note
    assert "deciding.py:12 `return x if x.shape[2] % 2 == 0 else -x` comes to True; an input that" in note


def test_sites_of_what_can_only_be_recorded(cli: Callable, toy: str) -> None:
    Path("deciding.py").write_text(DECIDING)
    ran = cli("sites", "deciding.py:Bright", "--input-size", "32")
    assert ran.code == 0
    said = " ".join(ran.out.split())
    assert "deciding.py:Bright, random weights: 1 site" in said
    assert "from one run, since there is no graph: Bright cannot be traced: stopped at" in said
    assert said.endswith("--form module can gate these sites, a graph cannot")


def test_inspect_of_what_is_no_file_of_ours(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("hello")
    for name in ("empty.pt", "text.pt", "absent.pt", "x.txt", "."):
        ran = cli("inspect", tmp_path / name)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)


def test_compare_puts_attentions_and_placements_side_by_side(cli: Callable, toy: str, tmp_path: Path) -> None:
    ran = cli(
        "compare", toy, "-a", "se", "-a", "eca", "--placement", "standard", "--placement", "post", "--input-size", "16",
        "--no-bench", "--json", "c.json", "--markdown", "c.md", "--html", "c.html", "--plot", "c.svg",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    found = json.loads((tmp_path / "c.json").read_text())["candidates"]
    assert [(each["attention"], each["placement"]) for each in found] == [
        ("none", ""),
        ("se", "standard"),
        ("se", "post"),
        ("eca", "standard"),
        ("eca", "post"),
    ]
    assert (tmp_path / "c.md").exists()
    assert "eca (post)" in (tmp_path / "c.html").read_text()
    assert (tmp_path / "c.svg").exists()


def test_compare_refuses_like_the_main_job(cli: Callable, toy: str) -> None:
    assert "unknown attention" in cli("compare", toy, "-a", "nope").err
    assert "--attention" in cli("compare", toy).err
    assert "not one of standard" in cli("compare", toy, "-a", "se", "--placement", "x").err


def test_compare_puts_json_alone_on_standard_output(cli: Callable, toy: str, tmp_path: Path) -> None:
    ran = cli("compare", toy, "-a", "se", "-a", "eca", "--input-size", "16", "--no-bench", "--json", "-")
    assert ran.code == 0, ran.err
    assert [each["attention"] for each in json.loads(ran.out)["candidates"]] == ["none", "se", "eca"]
    assert not (tmp_path / "-").exists()


def test_compare_puts_nothing_else_there(cli: Callable, toy: str, tmp_path: Path) -> None:
    for option in ("--markdown", "--html", "--plot"):
        ran = cli("compare", toy, "-a", "se", option, "-")
        assert ran == (2, "", f"attn-inject: {option} -: only JSON goes to standard output; give a file\n")
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {"toy.py"}


def test_a_file_says_what_was_taken_out_and_what_its_plan_notes(cli: Callable, tmp_path: Path) -> None:
    seresnet = timm.create_model("seresnet18")
    save(inject(seresnet, "none", existing="replace", input_size=64), tmp_path / "bare.pt")
    bare = cli("inspect", tmp_path / "bare.pt").out
    assert "taken out     the attention of 8 blocks" in bare
    save(inject(seresnet, "eca", input_size=64), tmp_path / "part.pt", attention_only=True)
    part = cli("inspect", tmp_path / "part.pt").out
    assert "the attention only: load it onto a copy of the source" in part
    assert "note          8 of 8 blocks already have channel attention" in part
