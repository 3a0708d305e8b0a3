from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from attn_inject import AttnInjectError, load
from attn_inject.reporting.settings import ReportSettings

QUICK = ("--no-bench", "--input-size", "32")
# The toy network: a stem of 3*32*9 + 32, two blocks of two 32*32*9 and 64 each, a head of 32*10 + 10.
PARAMETERS = 896 + 2 * 18_496 + 330


def test_the_report_comes_with_the_source_first(cli: Callable, toy: str) -> None:
    ran = cli(toy, "--attention", "se", "--reduction", "4", *QUICK)
    assert ran.code == 0
    assert ran.err == ""
    assert ran.out.splitlines()[0] == "toy.py:Net, random weights"
    assert f"{PARAMETERS + 2 * 2 * 32 * 8:,}" in ran.out
    assert max(len(line) for line in ran.out.splitlines()) <= 80


def test_every_option_of_the_plan_has_its_effect(cli: Callable, toy: str, tmp_path: Path) -> None:
    ran = cli(
        toy, "-a", "eca", "--k", "7", "-o", "k=3", "--stage-option", "1:k=5", "--model-arg", "blocks=6", "--exclude",
        "blocks.5", "--every", "2", "--name", "gate", "--init", "identity", "--expect-sites", "3", "--json", "r.json",
        *QUICK,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    sites = json.loads((tmp_path / "r.json").read_text())["sites"]
    assert [site["module"] for site in sites] == ["blocks.0.gate", "blocks.2.gate", "blocks.4.gate"]
    assert [site["options"]["k"] for site in sites] == [5, 5, 5]


def test_every_view_is_written(cli: Callable, toy: str, tmp_path: Path) -> None:
    views = {"--json": "r.json", "--markdown": "r.md", "--html": "r.html", "--plot": "r.svg"}
    ran = cli(toy, "-a", "se", "--diff", "--full", *(word for view in views.items() for word in view), *QUICK)
    assert ran.code == 0, ran.err
    assert "+ se = self.se(norm)" in ran.out
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == sorted([*views.values(), "toy.py"])
    assert json.loads((tmp_path / "r.json").read_text())["format"] == "attn-inject report"
    assert (tmp_path / "r.html").read_text().lstrip().lower().startswith("<!doctype html>")


def test_optimize_measures_the_inference_graph_and_counts_the_patched_one(
    cli: Callable, toy: str, tmp_path: Path
) -> None:
    quick = ("--input-size", "32", "--bench-seconds", "0.3")
    ran = cli(toy, "-a", "se", "--optimize", "--json", "r.json", *quick)
    assert ran.code == 0, ran.err
    report = json.loads((tmp_path / "r.json").read_text())
    assert "speed of the optimised graph, norms folded in both" in report["title"]
    assert len(report["sites"]) == 2
    assert [speed["task"] for speed in report["speeds"]] == ["inference"]
    assert cli(toy, "-a", "se", "--optimize", "--training", *quick).code == 2


def test_a_step_that_is_not_run_is_not_left_out_in_silence(cli: Callable, toy: str, tmp_path: Path) -> None:
    ran = cli(toy, "-a", "se", "--no-bench", "--training")
    assert (ran.code, "which --no-bench leaves out" in ran.err) == (2, True)
    with pytest.raises(AttnInjectError, match="training measures a step, which bench=False leaves out"):
        ReportSettings(bench=False, training=True)


def test_a_seed_makes_two_runs_equal_to_the_bit(cli: Callable, toy: str, tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        assert cli(toy, "-a", "se", "--seed", "5", "--out", name, *QUICK).code == 0
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("a.pt", "b.pt"))
    flat = [torch.utils._pytree.tree_leaves(content) for content in (one, two)]
    assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(*flat, strict=True))


def test_attention_can_be_taken_out(cli: Callable) -> None:
    ran = cli("timm:seresnet18", "-a", "none", "--existing", "replace", "--no-bench", "--input-size", "64")
    assert ran.code == 0, ran.err
    assert "11,689,512" in ran.out  # timm's resnet18, counted


FAULTS = [
    ("nonet -a se", "'nonet' is a model of neither torchvision nor timm"),
    ("{toy} -a nope", "unknown attention 'nope'"),
    ("{toy} -a se -o reducton=4", "did you mean reduction?"),
    ("{toy} -a se --reduction 0", "reduction"),
    ("{toy} -a se --reduction x", "--reduction"),
    ("{toy} -a eca --k 4", "k"),
    ("{toy} -a se --placement sideways", "not one of standard, pre"),
    ("{toy} -a se --kinds odd", "kinds are residual, mixed"),
    ("{toy} -a se --include 'x*'", "matches no block"),
    ("{toy} -a se --stages 9", "no sites in stage 9"),
    ("{toy} -a se --scope nowhere", "nowhere"),
    ("{toy} -a se --expect-sites 3", "--expect-sites 3: the plan has 2"),
    ("{toy} -a se --input-size 0", "cannot be 0"),
    ("{toy} -a se --input-size 5x32x32", "5"),
    ("{toy} -a none", "existing"),
    ("{toy}", "--attention"),
    ("-a se", "say which model"),
    ("toy.py:plain -a se", "no sites"),
    ("toy.py:absent -a se", "there is no 'absent' in toy.py"),
    ("{toy} -a se --model-arg width", "not of the form key=value"),
    ("{toy} -a se --model-arg depth=3", "depth"),
    ("{toy} -a se --pretrained", "no weights to download"),
    ("{toy} -a se --checkpoint absent.pt", "there is no file of weights"),
    ("{toy} -a se --out absent/m.pt", "there is no folder absent"),
    ("{toy} -a se --out there.pt", "give --force"),
    ("{toy} -a se --out m.bin", "the ending must be one of"),
    ("{toy} -a se --plot m.bin", "the ending must be one of"),
    ("{toy} -a se --json absent/r.json", "there is no folder absent"),
    ("{toy} -a se --dtype int8", "int8"),
    ("{toy} -a se --units metric", "not one of decimal, binary"),
    ("--recipe nope", "no recipe 'nope'"),
]


@pytest.mark.parametrize(("line", "message"), FAULTS, ids=[line for line, _ in FAULTS])
def test_a_users_mistake_is_one_line_and_writes_nothing(
    cli: Callable, toy: str, tmp_path: Path, line: str, message: str
) -> None:
    import shlex

    (tmp_path / "there.pt").write_text("mine")
    arguments = shlex.split(line.format(toy=toy))
    if "--out" not in arguments:
        arguments += ["--out", "m.pt"]
    bench = ["--bench-seconds", "0.2"] if "--dtype" in arguments else ["--no-bench"]
    size = [] if "--input-size" in arguments else ["--input-size", "32"]
    ran = cli(*arguments, *bench, *size)
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran
    assert message in ran.err
    assert "Traceback" not in ran.err
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {"toy.py", "there.pt"}
    assert (tmp_path / "there.pt").read_text() == "mine"


def test_weights_come_from_a_file_and_the_report_says_how_many(cli: Callable, toy: str, tmp_path: Path) -> None:
    from attn_inject.zoo.building import build
    from attn_inject.zoo.parsing import parse_source

    state = build(parse_source(toy, seed=9)).state_dict()
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "w.pth")
    ran = cli(toy, "-a", "se", "--checkpoint", "w.pth", "--out", "m.pt", *QUICK)
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0] == "toy.py:Net, weights of w.pth"
    assert f"{len(state)} of {len(state)} tensors" in lines[1]
    loaded = load(tmp_path / "m.pt", trust_source=True).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_the_attention_alone_is_a_small_file(cli: Callable, toy: str, tmp_path: Path) -> None:
    for name, flag in (("whole.pt", []), ("part.pt", ["--attention-only"])):
        assert cli(toy, "-a", "eca", "--seed", "2", "--out", name, *flag, *QUICK).code == 0
    whole, part = (load(tmp_path / name, trust_source=True).state_dict() for name in ("whole.pt", "part.pt"))
    assert (tmp_path / "part.pt").stat().st_size < (tmp_path / "whole.pt").stat().st_size / 10
    assert list(whole) == list(part)
    assert all(torch.equal(a, b) for a, b in zip(whole.values(), part.values(), strict=True))


def test_several_attentions_are_for_compare(cli: Callable, toy: str, tmp_path: Path) -> None:
    ran = cli(toy, "-a", "se", "-a", "eca", "--out", "m.pt", "--json", "r.json", *QUICK)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "attn-inject compare toy.py:Net -a se -a eca" in ran.err
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {"toy.py"}


def test_a_dash_means_json_alone_on_standard_output(cli: Callable, toy: str, tmp_path: Path) -> None:
    ran = cli(toy, "-a", "se", "--diff", "--full", "--json", "-", "--out", "m.pt", *QUICK)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["format"] == "attn-inject report"
    assert ran.err.splitlines() == ["toy.py:Net, random weights", "saved m.pt"]
    assert not (tmp_path / "-").exists()


@pytest.mark.parametrize("option", ["--markdown", "--html", "--plot", "--out"])
def test_only_json_goes_to_standard_output(cli: Callable, toy: str, tmp_path: Path, option: str) -> None:
    ran = cli(toy, "-a", "se", option, "-", *QUICK)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"attn-inject: {option} -: only JSON goes to standard output; give a file\n"
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {"toy.py"}


RECIPE = (
    'name = "mine"\ntitle = "t"\npaper = "p"\nmodel = "toy.py:Net"\nattention = "se"\ninput_size = [3, 64, 64]\n'
    "expect_sites = 2\nexpect_parameters = {}\n[options]\nreduction = 4\n"
)


@pytest.mark.parametrize(("option", "side"), [(("--input-size", "32"), 32), ((), 64)])
def test_the_command_line_s_input_size_beats_the_recipe_s(
    cli: Callable, toy: str, tmp_path: Path, option: tuple[str, ...], side: int
) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE.format(PARAMETERS + 2 * 512))
    ran = cli("--recipe", "mine.toml", "--no-bench", "--json", "-", *option)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["input_size"] == [3, side, side]
    # A size is no change of the network: what the recipe expects must still hold.
    (tmp_path / "mine.toml").write_text(RECIPE.format(1))
    ran = cli("--recipe", "mine.toml", "--no-bench", "--json", "-", *option)
    assert (ran.code, ran.out) == (2, "")
    assert "recipe mine expects 1 parameters" in ran.err


def test_a_recipe_s_options_are_kept_beside_those_of_the_command_line(cli: Callable, toy: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE.format(PARAMETERS + 2 * 512))
    ran = cli("--recipe", "mine.toml", "-o", "bias=true", "--json", "-", *QUICK)
    assert ran.code == 0, ran.err
    options = json.loads(ran.out)["sites"][0]["options"]
    assert (options["reduction"], options["bias"]) == (4, True)
