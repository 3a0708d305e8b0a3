"""`attn-inject gates FILE --data ...`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import torch
from torchvision.utils import save_image

from attn_inject.reporting import study_schema


@pytest.fixture
def saved(toy: str, cli: Callable) -> str:
    # One hidden layer in ten is dead at some start, and its gate a constant.
    torch.manual_seed(0)
    made = cli(toy, "-a", "se", "--input-size", "16", "--no-bench", "--out", "net.pt", "--seed", "0")
    assert made.code == 0
    return "net.pt"


def test_noise(saved: str, cli: Callable) -> None:
    ran = cli("gates", saved, "--data", "noise", "--trust-source", "--batches", "2", "--batch", "4")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("toy.py:Net + se\nSYNTHETIC NOISE: normal noise of the model's input size, 8 images\n")
    assert "blocks.0 … 1" in ran.out
    assert max(len(line) for line in ran.out.splitlines()) <= 80


@pytest.mark.slow
def test_a_folder_and_every_view(saved: str, cli: Callable) -> None:
    for name in ("a", "b"):
        Path("val", name).mkdir(parents=True)
        for index in range(3):
            save_image(torch.rand(3, 20, 20), Path("val", name, f"{index}.png"))
    options = ("--data", "val", "--trust-source", "--full", "--html", "g.html", "--plot", "g.png")
    ran = cli("gates", saved, *options, "--json", "g.json")
    assert ran.code == 0
    assert "images of val, 6 images, 2 classes" in ran.out
    assert "2 classes in the data, 10 outputs of the model" in " ".join(ran.out.split())
    data = json.loads(Path("g.json").read_text())
    jsonschema.validate(data, study_schema.GATES)
    assert (data["images"], data["measure"], len(data["sites"])) == (6, "outputs", 2)
    assert "blocks.1" in Path("g.html").read_text()
    assert Path("g.png").read_bytes().startswith(b"\x89PNG")
    assert "exists already" in cli("gates", saved, *options).err
    alone = cli("gates", saved, "--data", "val", "--trust-source", "--no-ablation", "--json", "-")
    assert json.loads(alone.out)["sites"][0]["frozen"] is None


def test_what_is_wrong_is_one_sentence(saved: str, cli: Callable, tmp_path: Path) -> None:
    for arguments, said in (
        (("gates", saved, "--data", "noise"), "--trust-source"),
        (("gates", "missing.pt", "--data", "noise"), "missing.pt"),
        (("gates", saved, "--data", "nowhere", "--trust-source"), "there is no folder nowhere"),
        (("gates", saved), "--data"),
        (("gates", saved, "--data", "noise", "--plot", "x.txt"), "the ending must be"),
    ):
        ran = cli(*arguments)
        assert ran.code == 2
        assert said in ran.err
        assert len(ran.err.splitlines()) == 1
        assert ran.out == ""


@pytest.mark.slow
def test_folding(saved: str, cli: Callable) -> None:
    options = ("--data", "noise", "--trust-source", "--batches", "2", "--batch", "4", "--no-ablation")
    ran = cli("gates", saved, *options, "--fold", "1", "--out", "folded.pt")
    assert (ran.code, ran.err) == (0, "")
    # The calmest first, and weights are random.
    found = re.search(r"folded 2 of 2 sites: (blocks\.\d), (blocks\.\d)\n", ran.out)
    assert found is not None, ran.out
    assert {*found.groups()} == {"blocks.0", "blocks.1"}
    assert "100 % was allowed" in " ".join(ran.out.split())
    assert ran.out.endswith("saved folded.pt\n")
    told = cli("inspect", "folded.pt").out
    assert "folded into blocks.0.norm" in told
    assert re.search(
        r"^folded        2 of 2 sites: blocks\.\d, blocks\.\d\n {14}outputs change by ", told, re.MULTILINE
    )
    assert (
        "\n              judged by the mean relative change of the outputs, without an interval, since 4 images are"
        in told
    )
    Path("targets.py").write_text(
        "import torch\n"
        "def data():\n"
        "    x = torch.randn(200, 3, 16, 16, generator=torch.Generator().manual_seed(0))\n"
        "    return list(zip(x.split(50), torch.zeros(200, dtype=torch.long).split(50)))\n"
    )
    by = ("--data", "targets.py:data", "--trust-source", "--no-ablation", "--fold", "1", "--fold-by", "accuracy")
    ran = cli("gates", saved, *by, "--json", "f.json", "--html", "f.html")
    assert "of accuracy lost" in ran.out
    assert "on 100 images kept aside; up to 100 was allowed" in " ".join(ran.out.split())
    found = json.loads(Path("f.json").read_text())
    jsonschema.validate(found, study_schema.GATES)
    assert (found["folding"]["measure"], found["folding"]["images"]) == ("accuracy", 100)
    assert "of accuracy lost" in Path("f.html").read_text()
    assert "the data has no targets" in cli("gates", saved, *options, "--fold", "1", "--fold-by", "accuracy").err
    assert "without --fold" in cli("gates", saved, *options, "--fold-by", "accuracy").err
    assert "is not one of outputs, accuracy" in cli("gates", saved, *options, "--fold", "1", "--fold-by", "loss").err
    none = cli("gates", saved, *options, "--fold", "0")
    assert "not folded: blocks.1" in none.out
    assert "without --fold" in cli("gates", saved, *options, "--out", "other.pt").err
