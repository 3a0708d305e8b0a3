"""`--example-input`: models with several inputs on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import TOY, Outcome

SEVERAL = (
    TOY
    + """

class Several(Net):
    def forward(self, image, scale, *, mask=None):
        x = self.stem(image) * scale[:, None, None, None]
        return self.head(self.blocks(x if mask is None else x * mask).mean((2, 3)))
"""
)
BOTH = ("--example-input", "image=3x32x32", "--example-input", "scale=")


@pytest.fixture
def several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "several.py").write_text(SEVERAL)
    monkeypatch.chdir(tmp_path)
    return "several.py:Several"


def test_patched_reported_and_saved(several: str, cli: Callable[..., Outcome]) -> None:
    masked = (*BOTH, "--example-input", "mask=1x16x16")
    ran = cli(several, "-a", "se", *masked, "--no-bench", "--out", "m.pt", "--json", "m.json")
    assert ran.code == 0, ran.err
    assert "image 3×32×32, scale, mask 1×16×16; float32" in " ".join(ran.out.split())
    assert [row["name"] for row in json.loads(Path("m.json").read_text())["inputs"]] == ["image", "scale", "mask"]
    assert "image 2x3x32x32 float32, scale 2 float32, mask 2x1x16x16 float32" in cli("inspect", "m.pt").out


def test_with_the_batch_optimised_and_timed(several: str, cli: Callable[..., Outcome]) -> None:
    given = ("--example-input", "image=1x3x32x32", "--example-input", "scale=1:float32")
    ran = cli(several, "-a", "eca", *given, "--optimize", "--bench-seconds", "0.1", "--device", "cpu")
    assert ran.code == 0, ran.err
    assert "image 3×32×32, scale; float32" in " ".join(ran.out.split())
    assert "CPU speed, inference" in ran.out


def test_sites_and_compare(several: str, cli: Callable[..., Outcome]) -> None:
    assert "2 sites" in cli("sites", several, *BOTH).out
    ran = cli("compare", several, "-a", "eca", "-a", "se", "--no-bench", *BOTH)
    assert (ran.code, ran.out.count("eca")) == (0, 1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--example-input", "image"), "'image' is not of the form NAME=SIZE"),
        (("--example-input", "=3x32"), "'=3x32' is not of the form NAME=SIZE"),
        (("--example-input", "image=3xtall"), "'3xtall' is not a list of whole numbers"),
        (("--example-input", "image=3x32x32:int3"), "'int3' is not one of float32, float16"),
        ((*BOTH, "--example-input", "scale=4"), "scale is given twice"),
        ((*BOTH, "--input-size", "32"), "the sizes are in --example-input: leave --input-size out"),
        (BOTH[:2], "the model also needs the input scale"),
        ((*BOTH, "--example-input", "maks=1x16x16"), "takes no input 'maks' (did you mean mask?)"),
        ((), "pass --example-input with one value for each, as NAME=SIZE on the command line"),
    ],
)
def test_mistakes(options: tuple[str, ...], sentence: str, several: str, cli: Callable[..., Outcome]) -> None:
    ran = cli(several, "-a", "se", "--no-bench", "--out", "m.pt", *options)
    assert ran.code == 2
    assert sentence in " ".join(ran.err.replace("│", " ").split())
    assert not Path("m.pt").exists()
