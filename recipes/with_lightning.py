"""Attention in a network, trained by Lightning: first alone, then with everything.

    python with_lightning.py cifar:resnet20 --attention eca --data digits --size 32 --out run

The callback is all that is new: while it freezes, the norms of the network keep their statistics too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import lightning
import torch
import torch.nn.functional as F
import typer
from torch import nn
from torch.utils.data import DataLoader

import attn_inject
from attn_inject.recipes.finetune import Phase, optimizer_of, set_phase
from attn_inject.recipes.images import data_of
from attn_inject.recipes.network import network


class Classifier(lightning.LightningModule):
    """A network, its loss and its optimizer, as Lightning has them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _index: int) -> torch.Tensor:
        images, labels = batch
        loss = F.cross_entropy(self.net(images), labels)
        self.log("loss", loss, prog_bar=True, on_epoch=True, on_step=False)
        return loss

    def configure_optimizers(self) -> Any:
        return optimizer_of(self.net, lr=1e-3, attention_lr=1e-2, decay=0.01)


class AttentionFirst(lightning.Callback):
    """Lets the attention, and a new classifier, learn alone for some epochs."""

    def __init__(self, epochs: int, head: set[str]) -> None:
        self.epochs, self.head = epochs, head

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Freeze at the start, and let go after so many epochs."""
        if trainer.current_epoch in (0, self.epochs):
            name = "attention" if trainer.current_epoch < self.epochs else "everything"
            set_phase(module.net, Phase(name, self.epochs), self.head)
        module.net.train()


def main(
    model: Annotated[str, typer.Argument()] = "cifar:resnet20",
    attention: Annotated[str, typer.Option("--attention", "-a")] = "eca",
    data: str = "digits",
    size: int = 32,
    attention_epochs: int = 1,
    epochs: int = 2,
    batch: int = 64,
    out: Path = Path("lightning"),
) -> None:
    """Train MODEL with attention, and save it."""
    lightning.seed_everything(0)
    own, _, classes = data_of(data, size)
    _, net, head = network(model, attention, size, classes)
    trainer = lightning.Trainer(
        max_epochs=attention_epochs + epochs,
        callbacks=[AttentionFirst(attention_epochs, head)],
        default_root_dir=out,
        logger=False,
    )
    trainer.fit(Classifier(net), DataLoader(own, batch, shuffle=True, drop_last=True))
    if trainer.is_global_zero:
        attn_inject.save(net, out / "model.pt")


if __name__ == "__main__":
    typer.run(main)
