"""What of a run is kept in its folder: its settings, and a checkpoint of each epoch."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_checkpoint
from torch.distributed.checkpoint.state_dict_saver import save as save_checkpoint
from torch.optim.swa_utils import AveragedModel

from attn_inject.recipes.processes import World

# One process needs no others, and torch says so at every checkpoint.
warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)


def same_run(out: Path, settings: dict[str, Any], here: World) -> None:
    """Refuse to go on with a run that was begun with other settings."""
    path = out / "settings.json"
    begun = json.loads(path.read_text()) if path.is_file() and whole_epochs(out) else settings
    if other := [f"{name} was {begun.get(name)}" for name in settings if begun.get(name) != settings[name]]:
        raise typer.BadParameter(f"{out} holds a run of other settings ({', '.join(other)}): give another --out")
    if here.size > 1:
        distributed.barrier()
    if here.rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(settings, indent=1) + "\n")
        new.replace(path)


@dataclass
class Training:
    """One network in training, its averaged weights, and the history of its epochs: what a checkpoint keeps."""

    model: nn.Module
    average: AveragedModel
    out: Path
    history: list[dict[str, Any]]

    def last_checkpoint(self) -> Path | None:
        """The last that was written whole."""
        return max(whole_epochs(self.out), default=None, key=number)

    def save(self, optimizer: torch.optim.Optimizer, rank: int) -> None:
        """Write what the processes hold, each its own; keep two."""
        save_checkpoint(
            self._state(optimizer), checkpoint_id=self.out / f"epoch-{len(self.history)}", no_dist=_is_alone()
        )
        if rank == 0:
            for old in sorted(whole_epochs(self.out), key=number)[:-2]:
                shutil.rmtree(old)

    def restore(self, folder: Path, optimizer: torch.optim.Optimizer | None) -> None:
        """Load a checkpoint; without an optimizer, where another phase begins."""
        state = self._state(optimizer)
        load_checkpoint(state, checkpoint_id=folder, no_dist=_is_alone())
        set_model_state_dict(self.model, state["model"])
        set_model_state_dict(self.average.module, state["average"])
        self.average.n_averaged.copy_(state["averaged"])
        self.history[:] = json.loads(state["history"])
        if optimizer is not None:
            set_optimizer_state_dict(self.model, optimizer, state["optimizer"])

    def _state(self, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
        state: dict[str, Any] = {
            "model": get_model_state_dict(self.model),
            "average": get_model_state_dict(self.average.module),
            "averaged": self.average.n_averaged,
            "history": json.dumps(self.history),
        }
        return state if optimizer is None else {**state, "optimizer": get_optimizer_state_dict(self.model, optimizer)}


def whole_epochs(out: Path) -> list[Path]:
    """The checkpoints that were written whole: the list of their contents comes last."""
    return [folder for folder in out.glob("epoch-*") if (folder / ".metadata").is_file()]


def _is_alone() -> bool:
    return not distributed.is_initialized()


def number(folder: Path) -> int:
    return int(folder.name.partition("-")[2])
