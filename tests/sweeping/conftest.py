from __future__ import annotations

from pathlib import Path

import pytest

# Networks and train functions as a user has them in a file of the working folder. What happens in a process is told by
# files, since the process may be any.
NETS = '''
import os
import signal
from pathlib import Path

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + torch.relu(self.conv(x))


def net(width=16):
    ends = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)]
    return nn.Sequential(nn.Conv2d(3, width, 3, 2), Block(width), Block(width), *ends)


def wide():
    return net(32)


def broken():
    raise RuntimeError("no such depth")


def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())


def leaves():
    os._exit(3)


def dies_once():
    if not Path("died").exists():
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return net()


def counted(model, seed):
    """An accuracy that tells of the model and the seed alone."""
    print("training")
    return {"accuracy": round(float(model(torch.ones(1, 3, 16, 16)).sum().detach()), 4)}


def gates(model, *, seed):
    """How many gates run, each hooked."""
    ran = []
    for name, module in model.named_modules():
        if name.endswith(".se"):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    model(torch.ones(1, 3, 16, 16))
    return len(ran) + seed / 10


def wrong(model, seed):
    return "good"


def fails(model, seed):
    return {}["accuracy"]
'''


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the networks, which is the working folder."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    return tmp_path
