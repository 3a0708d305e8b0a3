"""Wrong inputs of every kind: one sentence, in the words of the command line, before any work that can wait."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision

from attn_inject.cli import outputs
from attn_inject.cli.flags import in_flags

QUICK = ("--no-bench", "--input-size", "32")
FACTORY = """
from torch import nn

def make(width, *, depth=2):
    return nn.Identity()

def plain():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())

class Asking(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.second = nn.Conv2d(8, 8, 3)

    def forward(self, x):
        x = self.first(x)
        return self.second(x) if x.sum() > 0 else x
"""


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("use existing='stack' or existing='replace'", "use --existing stack or --existing replace"),
        ("use device='cpu'", "use --device cpu"),
        ("no weights to run with; use bench=False", "no weights to run with; use --no-bench"),
        ("training=True needs a loss", "--training needs a loss"),
        ("give input_size=(channels, height, width)", "give --input-size channelsxheightxwidth"),
        ("stages=(2, 3)", "--stages 2,3"),
        ("with min_channels=64", "with --min-channels 64"),
        ("pass the model, or trust_source=True", "pass the model, or --trust-source"),
        ("pass another input_size, or example_inputs", "pass another --input-size, or --example-input"),
        ("the key input_size of a recipe", "the key input_size of a recipe"),
        ("or use attach(), which runs the model's own code", "or use --form module, which runs the model's own code"),
        ("se: reduction=16 is no setting of ours", "se: reduction=16 is no setting of ours"),
        ("nothing to change", "nothing to change"),
    ],
)
def test_settings_are_spelled_as_options(message: str, shown: str) -> None:
    assert in_flags(message) == shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("fac.py:plain", "-a", "se", "--no-bench", "--input-size", "3x16x16"), "(try --kinds stage)"),
        (("resnet18", "-a", "se", "--input-size", "224,224"), "not a list of whole numbers: write 224x224"),
        (("resnet18", "-a", "se", "--stages", "2x3"), "not a list of whole numbers: write 2,3"),
        (("site", "resnet50"), "'site' is no command (did you mean sites?)"),
        (("resnet18", "resnet50", "-a", "se"), "one run takes one model: 'resnet50' is too much"),
        (("resnet18", "-a", "se", "--kinds", "resid"), "got resid (did you mean residual?)"),
        (("resnet18", "-a", "se", "--dtype", "int8"), "'int8' is not a floating-point type"),
        (("resnet18", "-a", "se", "--device", "nonsense"), "is not a device"),
        (("resnet18", "-a", "se", "--device", "nonsense", "--no-bench"), "is not a device"),
        (("resnet18", "-a", "se", "--dtype", "int8", "--no-bench"), "is not a floating-point type"),
        (("resnet18", "-a", "se", "--device", "cuda"), "use --device cpu"),
        (("fac.py:Asking", "-a", "se", "--no-bench"), "(choose one, as in --scope "),
        (("seresnet18", "-a", "se", "--existing", "skip", "--no-bench"), "use --existing stack or --existing replace"),
        (("fac.py:make", "-a", "se", "--no-bench"), "wants the arguments width: give --model-arg width=..."),
        (("resnet18", "-a", "se", "--checkpoint", "whole.pt", *QUICK), "save model.state_dict()"),
    ],
)
def test_wrong_inputs(
    arguments: tuple[str, ...], sentence: str, cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fac.py").write_text(FACTORY)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if "whole.pt" in arguments:
        torch.save(torchvision.models.resnet18(), tmp_path / "whole.pt")
    ran = cli(*arguments)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert sentence in ran.err


@pytest.mark.parametrize(
    "arguments",
    [("--device", "nonsense"), ("--device", "cuda"), ("--dtype", "int8"), ("--kinds", "resid"), ("--out", "m.onnx")],
)
@pytest.mark.parametrize("command", ["inject", "compare"])
def test_what_can_be_seen_at_once_is_refused_before_a_model_is_built(
    command: str, arguments: tuple[str, ...], cli: Callable, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if command == "compare" and arguments[0] == "--out":
        arguments = ("--dtype", "float7")
    monkeypatch.setattr(outputs, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("attn_inject.zoo.building.build", lambda *_, **__: pytest.fail("a model was built"))
    ran = cli(*([command] if command == "compare" else []), toy, "-a", "se", *arguments)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert ran.out == ""
    if arguments[0] == "--out":
        assert "pip install 'attn-inject[onnx]'" in ran.err


def test_a_zoo_is_a_pattern_too(cli: Callable) -> None:
    lines = cli("models", "cifar").out.splitlines()
    assert lines[0] == "cifar (classification)"
    assert all(line.startswith("  cifar:") for line in lines[1:])


def test_what_was_written_is_said(cli: Callable, toy: str) -> None:
    files = ("--html", "r.html", "--plot", "r.svg", "--markdown", "r.md")
    ran = cli(toy, "-a", "se", "--option", "reduction=4", "--json", "r.json", *files, *QUICK)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-4:] == ["wrote r.json", "wrote r.md", "wrote r.html", "wrote r.svg"]
    aside = cli(toy, "-a", "se", "--option", "reduction=4", "--json", "-", "--markdown", "again.md", *QUICK)
    assert "wrote again.md" in aside.err
    assert "wrote" not in aside.out
    ran = cli("compare", toy, "-a", "eca", "--json", "c.json", "--plot", "c.svg", *QUICK)
    assert ran.out.splitlines()[-2:] == ["wrote c.json", "wrote c.svg"]
