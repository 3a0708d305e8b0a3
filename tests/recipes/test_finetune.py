"""The fine-tuning script as it is called: what learns and what stays, killed and called again, on several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import nn

import attn_inject
from attn_inject.recipes import FOLDER, finetune
from attn_inject.recipes.images import data_of
from attn_inject.recipes.network import network, scores

from ..before_after import every_gate_runs
from ..by_hand import by_hand
from .nets import of_five_classes

NETS = Path(__file__).with_name("nets.py")
SCRIPT = FOLDER / "finetune.py"


def train(out: Path, net: str = "batch_normed", **settings: Any) -> nn.Module:
    chosen = {"data": "digits", "size": 32, "batch": 64, "lr": 3e-3, "attention_lr": 1e-2, **settings}
    finetune.finetune(f"{NETS}:{net}", out=out, **chosen)
    return result(out)


def result(out: Path) -> nn.Module:
    loaded: nn.Module = attn_inject.load(out / "model.pt", form="module", trust_source=True)
    every_gate_runs(loaded, torch.randn(2, 3, 32, 32))
    return loaded


def history(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "history.json").read_text())
    return found


@pytest.mark.zoo
def test_loss_falls_on_digits_and_everything_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = train(tmp_path, attention="se:reduction=4", attention_epochs=1, epochs=4)
    epochs = history(tmp_path)
    assert [(each["epoch"], each["phase"]) for each in epochs] == [
        (1, "attention"), (2, "everything"), (3, "everything"), (4, "everything"), (5, "everything"),
    ]  # fmt: skip
    assert epochs[-1]["loss"] < 0.5 * epochs[0]["loss"]
    assert epochs[-1]["accuracy"] > 0.8
    assert trained.fc.out_features == 10
    said = capsys.readouterr().out
    assert "nets.py:batch_normed + se: 2 sites\n" in said
    assert "accuracy" in said  # what the gates did
    assert "se" in said.split("MACs")[-1]  # what they cost
    assert [folder.name for folder in sorted(tmp_path.glob("epoch-*"))] == ["epoch-4", "epoch-5"]


@pytest.mark.parametrize("amp", [False, pytest.param(True, marks=pytest.mark.zoo)])
def test_with_the_attention_alone_all_else_stays_to_the_bit(amp: bool, tmp_path: Path) -> None:
    trained = train(tmp_path, attention="se:reduction=4", attention_epochs=1, epochs=0, amp=amp)
    torch.manual_seed(0)
    before = attn_inject.zoo.building.build(attn_inject.zoo.parsing.parse_source(f"{NETS}:batch_normed", seed=0))
    after = trained.state_dict()
    for name, tensor in before.state_dict().items():
        assert torch.equal(after[name], tensor), name
    new = [name for name in after if ".se." in name]
    assert new
    fresh = attn_inject.attach(before, "se", reduction=4, init="identity", input_size=32).state_dict()
    # The first layer's gradient is zero as long as the second is.
    assert all(not torch.equal(after[name], fresh[name]) for name in new if "fc2" in name)


@pytest.mark.zoo
def test_a_folder_of_images_and_a_new_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for number in range(3):
        (tmp_path / "photos" / str(number)).mkdir(parents=True)
        for shade in range(6):
            image = Image.new("RGB", (40, 36), (80 * number, 40 * shade, 0))
            image.save(tmp_path / "photos" / str(number) / f"{shade}.png")
    photos = {"data": str(tmp_path / "photos"), "size": 32, "batch": 8, "attention_epochs": 1, "epochs": 1}
    finetune.finetune("timm:test_resnet", "eca", out=tmp_path / "zoo", **photos)
    trained = result(tmp_path / "zoo")
    assert trained.fc.out_features == trained.num_classes == 3
    # The classifier learns with the attention, since it is new.
    finetune.finetune(f"{NETS}:of_five_classes", "eca", out=tmp_path / "own", **{**photos, "epochs": 0})
    said = capsys.readouterr().out
    assert "! the classifier is new: fc.bias, fc.weight\n" in said
    assert "for attn_inject.load(path, model): it has a new classifier" in said
    own, before = of_five_classes(), of_five_classes()
    own.fc = before.fc = nn.Linear(16, 3)
    loaded = attn_inject.load(tmp_path / "own" / "model.pt", own, form="module")
    assert not torch.equal(loaded.fc.weight, before.fc.weight)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"data": "nowhere"}, "^nowhere is no folder with a subfolder for each class"),
        ({"batch": 5000}, "^--batch 5000 is to be a multiple of 1, and at most 1438$"),
        ({"attention": "nothing"}, "nothing"),
    ],
)
def test_what_is_wrong_is_said(settings: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match=sentence):
        train(tmp_path, **settings)


def test_a_run_goes_on_with_its_own_settings_only(tmp_path: Path) -> None:
    short = {"attention": "se:reduction=4", "data": "synthetic", "attention_epochs": 1, "epochs": 0}
    train(tmp_path, "of_two_classes", **short)
    with pytest.raises(typer.BadParameter, match=r"holds a run of other settings \(attention was se:reduction=4\)"):
        train(tmp_path, "of_two_classes", **{**short, "attention": "eca"})


def test_what_is_no_classifier_of_images_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="takes no images of 4 pixels"):
        network("vgg11", "eca", 4, 10)
    _, squeezed, head = network("squeezenet1_1", "eca", 64, 7)
    assert head == {"classifier.1.weight", "classifier.1.bias"}
    assert squeezed(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    with pytest.raises(typer.BadParameter, match="auxiliary outputs"):
        scores((torch.zeros(1, 2), torch.zeros(1, 2)))


def test_folders_of_other_classes_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    for place in ("train/a", "train/b", "val/b", "val/c"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / place / "0.png")
    with pytest.raises(typer.BadParameter, match="have other subfolders"):
        data_of(str(tmp_path), 8)


# Two processes


def _call(out: Path, *more: str, processes: int = 1) -> list[str]:
    call = [sys.executable]
    if processes > 1:
        call += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    call += [str(SCRIPT), f"{NETS}:group_normed", "-a", "se:reduction=4", "--data", "digits", "--size", "32"]
    return [*call, "--attention-epochs", "1", "--epochs", "3", "--lr", "3e-3", "--out", str(out), *more]


def _run(call: list[str]) -> str:
    done = subprocess.run(call, capture_output=True, text=True, timeout=600, env=_ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _run_until(call: list[str], there: Path) -> None:
    """Kill the call and all that it started once a file is there."""
    with subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_ENVIRONMENT) as started:
        until = time.monotonic() + 300
        while not there.exists():
            assert started.poll() is None, "it ended before it was killed"
            assert time.monotonic() < until
            time.sleep(0.02)
        # torchrun gives each of its processes a session of its own; they all name the folder that they write to.
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(FileNotFoundError, ProcessLookupError):
                if str(there.parent.parent).encode() in (process / "cmdline").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)


_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def _apart(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in pairs)


@pytest.mark.zoo
def test_killed_and_called_again_it_ends_where_it_would_have(tmp_path: Path) -> None:
    _run(_call(tmp_path / "whole"))
    _run_until(_call(tmp_path / "killed"), tmp_path / "killed" / "epoch-2" / ".metadata")
    assert "going on after epoch" in _run(_call(tmp_path / "killed"))
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    assert _apart(result(tmp_path / "killed"), result(tmp_path / "whole")) == 0
    # Nothing is left to do, and it is done again from what is there.
    assert "going on" not in _run(_call(tmp_path / "whole"))


@pytest.mark.zoo
@pytest.mark.parametrize("strategy", by_hand(["ddp", "fsdp"], lambda strategy: strategy == "ddp"))
def test_two_processes_that_are_killed_end_where_one_does(strategy: str, tmp_path: Path) -> None:
    """Sums in another order go their own way in training: what they come to is compared, not that they are equal."""
    one = tmp_path / "one"
    _run(_call(one))
    two = _call(tmp_path / "two", "--strategy", strategy, processes=2)
    _run_until(two, tmp_path / "two" / "epoch-2" / ".metadata")
    assert "going on after epoch" in _run(two)
    for ours, theirs in zip(history(tmp_path / "two"), history(one), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02)
    assert _apart(result(tmp_path / "two"), result(one)) < 1e-2
