"""Attention in a network that torchvision's training script trains, as it is: the script builds the network by a name.

    python with_torchvision.py resnet18 eca train.py --data-path photos --epochs 90
    torchrun --nproc-per-node 8 with_torchvision.py resnet18 se:reduction=8 train.py --data-path photos

`train.py` is `references/classification/train.py` of torchvision's repository, with the files beside it. What stands
behind it are its own options; `--model` is given to it. Attention starts as the identity, so that with `--weights` the
network is at first what it was. What the script saves is a state dict, for a network made in the same way:

    name = attn_inject.register_torchvision_model("resnet18", "eca")
    net = torchvision.models.get_model(name, num_classes=5)
    with torch.serialization.safe_globals([argparse.Namespace]):
        net.load_state_dict(torch.load("checkpoint.pth")["model"])
    attn_inject.save(net, "model.pt")
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

import attn_inject

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


# From the first word on, all options are the script's.
@app.command(context_settings={"allow_interspersed_args": False})
def main(
    model: Annotated[str, typer.Argument(help="A name of torchvision's.")],
    attention: Annotated[str, typer.Argument(help="Such as eca, or se:reduction=8.")],
    script: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="torchvision's train.py.")],
    options: Annotated[list[str] | None, typer.Argument(help="The script's own options.")] = None,
) -> None:
    """Run SCRIPT with MODEL in which there is attention."""
    try:
        name = attn_inject.register_torchvision_model(model, attention, init="identity")
    except attn_inject.AttnInjectError as error:
        raise typer.BadParameter(str(error)) from error
    # The script's checkpoints hold its options, which it cannot read again by itself (torch reads tensors alone).
    torch.serialization.add_safe_globals([argparse.Namespace])
    # As the interpreter does for a script: it imports what lies beside it.
    sys.path[0] = str(script.resolve().parent)
    sys.argv = [str(script), "--model", name, *(options or [])]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    app()
