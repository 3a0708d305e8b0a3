"""Attention in a network, trained in a loop of Accelerate's: on one device or, by `accelerate launch`, on many.

    python with_accelerate.py cifar:resnet20 --attention eca --data digits --size 32 --out run

`attach` gives the network's own class, so nothing of the loop is different.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from accelerate import Accelerator
from torch.utils.data import DataLoader

import attn_inject
from attn_inject.recipes.finetune import optimizer_of
from attn_inject.recipes.images import data_of
from attn_inject.recipes.network import network


def main(
    model: Annotated[str, typer.Argument()] = "cifar:resnet20",
    attention: Annotated[str, typer.Option("--attention", "-a")] = "eca",
    data: str = "digits",
    size: int = 32,
    epochs: int = 3,
    batch: int = 64,
    out: Path = Path("accelerated"),
) -> None:
    """Train MODEL with attention, and save it."""
    accelerator = Accelerator()
    torch.manual_seed(0)
    own, _, classes = data_of(data, size)
    _, net, _ = network(model, attention, size, classes)
    optimizer = optimizer_of(net, lr=1e-3, attention_lr=1e-2, decay=0.01)
    loader = DataLoader(own, batch, shuffle=True, drop_last=True)
    net, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    for epoch in range(epochs):
        net.train()
        total = 0.0
        for images, labels in loader:
            loss = F.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            total += float(loss)
        accelerator.print(f"epoch {epoch + 1}  loss {total / len(loader):.4f}")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        attn_inject.save(accelerator.unwrap_model(net), out / "model.pt")


if __name__ == "__main__":
    typer.run(main)
