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
from attn_inject.recipes.finetune import data_of
from attn_inject.zoo.building import build
from attn_inject.zoo.parsing import parse_source


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
        new = list(attn_inject.attention_parameters(self.net))
        rest = [p for p in self.net.parameters() if all(p is not other for other in new)]
        return torch.optim.AdamW([{"params": new, "lr": 1e-2}, {"params": rest, "lr": 1e-3}])


class AttentionFirst(lightning.Callback):
    """Lets the attention alone learn for some epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Freeze at the start, and let go after so many epochs."""
        if trainer.current_epoch in (0, self.epochs):
            alone = trainer.current_epoch < self.epochs
            attn_inject.freeze_original(module.net, statistics=alone)
            if not alone:
                module.net.requires_grad_()
        module.net.train()


def main(
    model: Annotated[str, typer.Argument(help="With as many classes as the data.")] = "cifar:resnet20",
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
    source = parse_source(model, seed=0)
    net = attn_inject.attach(build(source), attention, init="identity", input_size=size, source=source)
    own, _, _ = data_of(data, size)
    trainer = lightning.Trainer(
        max_epochs=attention_epochs + epochs,
        callbacks=[AttentionFirst(attention_epochs)],
        default_root_dir=out,
        logger=False,
    )
    trainer.fit(Classifier(net), DataLoader(own, batch, shuffle=True, drop_last=True))
    if trainer.is_global_zero:
        attn_inject.save(net, out / "model.pt")


if __name__ == "__main__":
    typer.run(main)
