"""The recipe for torchvision's training script, with a script that does what torchvision's does with the network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from typer.testing import CliRunner

import attn_inject
from attn_inject.recipes import FOLDER
from attn_inject.recipes.with_torchvision import app

from ..before_after import every_gate_runs
from ..by_hand import by_hand

# Builds by name, averages, saves with its options as a namespace, reads tensors alone; a module of its own beside it.
SCRIPT = """
import argparse
import os

import torch
import torchvision
from batches_beside import batches
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for option in ("--model", "--weights", "--output-dir", "--resume"):
        parser.add_argument(option)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("-b", "--batch-size", type=int)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = whole = torchvision.models.get_model(args.model, weights=args.weights, num_classes=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    average = AveragedModel(model)
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group("gloo")
        model = DistributedDataParallel(model)
    begun = 0
    if args.resume:
        saved = torch.load(args.resume, map_location="cpu", weights_only=True)
        whole.load_state_dict(saved["model"])
        average.load_state_dict(saved["model_ema"])
        optimizer.load_state_dict(saved["optimizer"])
        begun = saved["epoch"] + 1
    for epoch in range(begun, args.epochs):
        for images, labels in batches(epoch, args.batch_size):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model.train()(images), labels).backward()
            optimizer.step()
            average.update_parameters(whole)
        state = {"model": whole.state_dict(), "model_ema": average.state_dict(), "optimizer": optimizer.state_dict()}
        if not int(os.environ.get("RANK", 0)):
            torch.save({**state, "epoch": epoch, "args": args}, os.path.join(args.output_dir, f"{epoch}.pth"))
"""
BESIDE = """
import torch


def batches(epoch, size):
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(2):
        labels = torch.randint(3, (size,), generator=generator)
        yield torch.randn(size, 3, 32, 32, generator=generator) + labels[:, None, None, None], labels
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "batches_beside.py").write_text(BESIDE)
    (tmp_path / "train.py").write_text(SCRIPT)
    return tmp_path / "train.py"


def _train(script: Path, *more: str, processes: int = 1) -> None:
    python = [sys.executable]
    if processes > 1:
        python += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    call = [*python, str(FOLDER / "with_torchvision.py"), "resnet18", "se:reduction=8", str(script), "-b", "4"]
    done = subprocess.run(
        [*call, "--output-dir", str(script.parent), *more],
        capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def _saved(script: Path, epoch: int) -> Any:
    return torch.load(script.parent / f"{epoch}.pth", weights_only=False)


def _attention(net: Any) -> list[torch.Tensor]:
    return [parameter.clone() for parameter in attn_inject.attention_parameters(net)]


@pytest.mark.zoo
@pytest.mark.parametrize("processes", by_hand([1, 2], lambda processes: processes == 1))
def test_a_script_trains_the_network_and_goes_on(processes: int, script: Path) -> None:
    _train(script, "--epochs", "2", processes=processes)
    _train(script, "--epochs", "3", "--resume", str(script.parent / "1.pth"), processes=processes)
    name = attn_inject.register_torchvision_model("resnet18", "se:reduction=8", init="identity")
    assert _saved(script, 2)["args"].model == name
    net: nn.Module = torchvision.models.get_model(name, num_classes=3)
    at_first = _attention(net)
    trained = []
    for epoch in range(3):
        net.load_state_dict(_saved(script, epoch)["model"])
        trained.append(_attention(net))
    assert len(trained[0]) == 16
    for before, after in zip([at_first, *trained], trained, strict=False):
        assert not any(map(torch.equal, before, after))
    # The average is of the same network, of whose steps it has seen all.
    assert int(_saved(script, 2)["model_ema"]["n_averaged"]) == 6
    net.load_state_dict({k[7:]: v for k, v in _saved(script, 2)["model_ema"].items() if k.startswith("module.")})
    every_gate_runs(net, torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["resnet5O", "eca"], "no model 'resnet5O' in torchvision: the nearest names are resnet50"),
        (["resnet18", "eca", "nowhere.py"], "'nowhere.py' does not exist"),
    ],
)
def test_what_is_wrong_is_said(words: list[str], sentence: str, script: Path) -> None:
    done = CliRunner().invoke(app, [*words, str(script)], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert sentence in done.output
