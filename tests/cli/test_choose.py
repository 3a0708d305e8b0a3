"""`attn-inject choose MODEL -a se --data ... --budget ...`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import torch
from torchvision.utils import save_image

from attn_inject import load
from attn_inject.reporting import study_schema
from tests.studying import worthy

NET, DATA = (f"{Path(worthy.__file__)}:{name}" for name in ("Net", "batches"))
# `toy` is there for its working directory.
pytestmark = pytest.mark.usefixtures("toy")


@pytest.mark.slow
def test_a_table_json_and_a_recipe_that_makes_it_again(cli: Callable) -> None:
    words = ("choose", NET, "-a", "se:reduction=1", "--data", DATA, "--steps", "80", "--seeds", "1", "--lr", "0.05")
    ran = cli(
        *words, "--budget", "sites=1", "--save-recipe", "chosen.toml", "--json", "c.json", "--resume", "state.json",
        "--html", "c.html", "--plot", "c.png",
    )  # fmt: skip
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert max(map(len, lines)) <= 80
    said = " ".join(ran.out.split())
    assert "+ se:reduction=1" in said
    assert "no later run can go on from state.json with random weights: give --seed N" in said
    assert "320 images trained on, 160 measured on, 160 judged by; 1 seed of 80 steps" in said
    assert next(line for line in lines if line.startswith("blocks.1")).split()[1] == "chosen"
    assert next(line for line in lines if line.startswith("blocks.0")).split()[1] == "not"
    assert [line.split()[0] for line in lines if line.startswith(("chosen ", "none ", "all ", "random "))] == [
        *("chosen", "none", "all", "random")
    ]
    assert "chosen: blocks.1" in said
    assert "better than no attention" in said
    assert "! one seed" in said
    data = json.loads(Path("c.json").read_text())
    jsonschema.validate(data, study_schema.CHOICE, cls=jsonschema.Draft202012Validator)
    assert [site["chosen"] for site in data["sites"]] == [False, True, False]
    assert Path("state.json").exists()
    assert "<td>blocks.1</td><td>chosen</td>" in Path("c.html").read_text()
    assert Path("c.png").read_bytes().startswith(b"\x89PNG")
    assert lines[-4:] == ["wrote chosen.toml", "wrote c.json", "wrote c.html", "wrote c.png"]

    made = cli("--recipe", "chosen.toml", "--no-bench", "--out", "net.pt")
    assert made.code == 0, made.err
    net = load("net.pt", worthy.Net()).eval()
    plan, ran = net.injection.plan, []
    net.get_submodule("blocks.1.se").register_forward_hook(lambda *_: ran.append("blocks.1.se"))
    net(worthy.batches(4, 4)[0][0])
    assert ran == ["blocks.1.se"]
    assert [(i.module, dict(i.options), i.init) for i in plan.insertions] == [
        ("blocks.1.se", {"reduction": 1}, "identity")
    ]
    assert cli(NET, "--recipe", "chosen.toml", "--no-bench").code == 0
    assert "exists already" in cli(*words, "--save-recipe", "chosen.toml").err


def test_nothing_pays_and_is_said(cli: Callable) -> None:
    words = ("choose", NET, "-a", f"{Path(worthy.__file__)}:Placebo", "-a", "eca", "--data", DATA)
    ran = cli(*words, "--steps", "1", "--batches", "8", "--save-recipe", "none.toml", "--json", "-")
    assert ran.code == 0
    assert "no site was chosen, so none.toml was not written" in ran.err
    assert not Path("none.toml").exists()
    data = json.loads(ran.out)
    jsonschema.validate(data, study_schema.CHOICE, cls=jsonschema.Draft202012Validator)
    assert {site["verdict"] for site in data["sites"]} <= {"not seen", "harms"}


def test_folders_need_the_models_own_classes(cli: Callable, toy: str) -> None:
    for index in range(10):
        Path("val", f"class{index}").mkdir(parents=True)
        save_image(torch.rand(3, 20, 20), Path("val", f"class{index}", "0.png"))
    words = ("choose", toy, "-a", "eca", "--steps", "1", "--seeds", "1", "--batch", "2")
    ran = cli(*words, "--data", "val", "--budget", "latency=1.5", "--bench-seconds", "0.1")
    # On a slow machine a tenth of a second is too little, which is said.
    assert (ran.code, [line for line in ran.err.splitlines() if "too long to resolve much" not in line]) == (0, [])
    said = " ".join(ran.out.split())
    assert "2 images are too few to show that any pays" in said
    assert "time" in said
    Path("val", "class0", "0.png").unlink()
    ran = cli(*words, "--data", "val")
    assert ran.code == 2
    assert "9 classes" in ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--budget", "latncy=1.03"), "did you mean latency"),
        (("--budget", "params=5000"), "write +5000"),
        (("--data", "noise"), "has no targets"),
        (("--data", "nowhere"), "there is no folder nowhere"),
        (("-a", "sse"), "unknown attention"),
        (("--save-recipe", "x.json"), "the ending must be .toml"),
        (("--placement", "replace"), "would take something out"),
        (("--lr", "0"), "lr must be"),
        (("--resume", "toy.py"), "cannot be read as JSON"),
    ],
)
def test_what_is_wrong_is_one_sentence(cli: Callable, words: tuple[str, ...], said: str) -> None:
    ran = cli("choose", NET, "-a", "eca", "--data", DATA, "--steps", "1", "--seeds", "1", "--batches", "4", *words)
    assert ran.code == 2, ran.out
    assert said in ran.err.replace("one of .toml", ".toml")
    assert len(ran.err.splitlines()) == 1
