"""`-a` with options behind the name, and with a class of the working folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from attn_inject import CheckpointError, load
from attn_inject.saving.inspection import inspect

OWN = """
import torch
from torch import nn

class Scale(nn.Module):
    def __init__(self, channels, start=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, 1, 1), start))

    def forward(self, x):
        return x * self.weight

class Half(Scale):
    def forward(self, x):
        return x[:, ::2]

class Failing(Scale):
    def forward(self, x):
        raise ValueError(f"maps of {x.shape[2]}\\nare nothing for me")
"""


@pytest.fixture
def own(toy: str, tmp_path: Path) -> Iterator[str]:
    (tmp_path / "own_attn.py").write_text(OWN)
    yield toy
    sys.modules.pop("own_attn", None)


def test_options_stand_behind_the_name(cli: Callable, own: str) -> None:
    same = ("--no-bench", "--input-size", "32", "--seed", "0", "--json", "-")
    ran = cli(own, "-a", "se:reduction=8", *same)
    assert ran.code == 0, ran.err
    other = cli(own, "-a", "se", "--reduction", "8", *same)
    apart = {"command": "", "made": ""}
    assert json.loads(other.out) | apart == json.loads(ran.out) | apart
    twice = cli(own, "-a", "se:reduction=8", "--reduction", "4", "--no-bench", "--input-size", "32")
    assert twice.code == 2
    assert "se is given reduction twice: 8 in the attention's name, and 4 as an option; leave one out" in twice.err
    twice = cli(own, "-a", "se", "-o", "reduction=8", "-o", "reduction=4", "--no-bench", "--input-size", "32")
    assert twice.code == 2
    assert "reduction is given twice: give it once" in twice.err


def test_comparing_specs_and_a_file(cli: Callable, own: str) -> None:
    names = ["se:reduction=4", "se:reduction=16", "own_attn.py:Scale:start=0.5", "psa:kernels=3,5,groups=1,4"]
    asked = [word for name in names for word in ("-a", name)]
    ran = cli("compare", own, *asked, "--input-size", "32", "--no-bench", "--json", "-")
    assert ran.code == 0, ran.err
    candidates = json.loads(ran.out)["candidates"]
    plain, *made = [(each["attention"], each["parameters"]) for each in candidates]
    assert [name for name, _ in made] == names
    assert [count - plain[1] for _, count in made[:3]] == [2 * 2 * 32 * 8, 2 * 2 * 32 * 2, 2 * 32]
    assert cli("compare", own, "-a", "se:reductoin=4", "--no-bench").code == 2


@pytest.mark.parametrize("name", ["own_attn:Scale", "own_attn.py:Scale"])
def test_a_class_of_the_working_folder_is_saved_and_loads_with_trust(
    cli: Callable, own: str, name: str, tmp_path: Path
) -> None:
    size = ("--no-bench", "--input-size", "32")
    ran = cli(own, "-a", f"{name}:start=0.5", "--seed", "1", "--out", "m.pt", *size)
    assert ran.code == 0, ran.err
    (plan,) = inspect("m.pt").plans
    assert (plan.attention, plan.insertions[0].options) == (name, {"start": 0.5})
    with pytest.raises(CheckpointError, match=f"names the code '{name}' as its attention.*trust_source=True"):
        load("m.pt")
    sys.modules.pop("own_attn", None)
    loaded = load("m.pt", trust_source=True)
    assert torch.equal(loaded.blocks[0].scale.weight, torch.full((32, 1, 1), 0.5))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "own_attn.py:Half",
            "blocks.0.half2: own_attn.py:Half makes 2x16x16x16 of the map 2x32x16x16: an attention must",
        ),
        (
            "own_attn:Failing",
            "blocks.0.failing: own_attn:Failing does not run on the map 2x32x16x16 there: ValueError:",
        ),
        ("own_attn.py:Nothing", "cannot import attention 'own_attn.py:Nothing': there is no 'Nothing' in own_attn.py"),
        ("own_attn.py", "own_attn.py is a file: say which class of it, as in own_attn.py:Scale"),
    ],
)
@pytest.mark.parametrize("form", ["graph", "module"])
def test_what_is_wrong_with_it_is_one_line(cli: Callable, own: str, name: str, words: str, form: str) -> None:
    ran = cli(own, "-a", name, "--no-bench", "--input-size", "32", "--form", form, "--out", "m.pt")
    assert ran.code == 2
    assert words in ran.err
    assert ran.err.count("\n") == 1
    assert not Path("m.pt").exists()


def test_a_spec_says_a_recipes_option_anew(cli: Callable, own: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        f'name = "mine"\ntitle = "t"\npaper = "p"\nmodel = "{own}"\nattention = "se:reduction=4"\nexpect_sites = 2\n'
        "expect_parameters = 38_000\noptions = {bias = true}\n"
    )
    ran = cli("--recipe", "mine.toml", "-a", "se:reduction=8", "--no-bench", "--input-size", "32", "--out", "m.pt")
    assert ran.code == 0, ran.err
    assert inspect("m.pt").plan.insertions[0].options == {"bias": True, "reduction": 8}
