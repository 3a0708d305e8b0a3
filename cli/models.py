"""`attn-inject models [PATTERN]`: the names that can be asked for."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated

import typer

from attn_inject.errors import SourceError
from attn_inject.zoo.names import models

from .progress import working


def command(
    pattern: Annotated[str, typer.Argument(help="A part of the name, or a glob such as 'resnet*'.")] = "",
) -> None:
    """List the models of torchvision, timm and the CIFAR factory."""
    with working("listing the model zoos (once per installed version)"):
        found = models(pattern)
    if not found:
        raise SourceError(f"no model's name matches '{pattern}'")
    for (zoo, task), group in groupby(found, key=lambda m: (m.zoo, m.task)):
        print(f"{zoo} ({task})")
        for model in group:
            print(f"  {model.text}")
