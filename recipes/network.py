"""A network by its name, with attention that starts as the identity and a classifier for the classes of the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import typer
from torch import nn

import attn_inject
from attn_inject import Source
from attn_inject.zoo.building import build
from attn_inject.zoo.parsing import parse_source


def network(
    model: str,
    attention: str,
    size: int,
    classes: int,
    *,
    pretrained: bool = False,
    checkpoint: str | None = None,
    seed: int = 0,
) -> tuple[nn.Module, Any, set[str]]:
    """(the network, the same with attention that starts as the identity, the names of a new classifier's weights)."""
    try:
        source = parse_source(model, pretrained=pretrained, checkpoint=checkpoint, seed=seed)
        plain = build(source)
        torch.manual_seed(seed)
        head, whole = with_classes(plain, source, size, classes)
        return plain, attn_inject.attach(plain, attention, init="identity", input_size=size, source=whole), head
    except attn_inject.AttnInjectError as error:
        raise typer.BadParameter(str(error)) from error


def with_classes(model: Any, source: Source, size: int, classes: int) -> tuple[set[str], Source | None]:
    """Give the network a new classifier if it has another number of classes.

    The names of the new weights, and where such a network comes from: of your own code nobody knows.
    """
    try:
        with torch.no_grad():
            width = scores(model.eval()(torch.zeros(1, 3, size, size))).shape[1]
    except RuntimeError as error:
        raise typer.BadParameter(f"{source} takes no images of {size} pixels: {error}") from error
    if width == classes:
        return set(), source
    layers: list[tuple[str, Any]] = [
        (path, module)
        for path, module in model.named_modules()
        if (isinstance(module, nn.Linear) and module.out_features == width)
        or (isinstance(module, nn.Conv2d) and module.out_channels == width and module.kernel_size == (1, 1))
    ]
    if not layers:
        raise typer.BadParameter(
            f"{source} has {width} classes, the data {classes}, and no layer that gives the {width}"
        )
    path, old = layers[-1]
    bias = old.bias is not None
    new = (
        nn.Linear(old.in_features, classes, bias)
        if isinstance(old, nn.Linear)
        else nn.Conv2d(old.in_channels, classes, 1, bias=bias)
    )
    model.set_submodule(path, new)
    if hasattr(model, "num_classes"):
        model.num_classes = classes
    names = {f"{path}.{name}" for name, _ in new.named_parameters()}
    if source.kind not in ("timm", "torchvision", "cifar"):
        return names, None
    # torchvision's Inception networks with weights of its own prepare their input.
    args = {"num_classes": classes} | ({"transform_input": True} if getattr(model, "transform_input", False) else {})
    return names, replace(source, pretrained=False, checkpoint=None, args={**source.args, **args})


def scores(outputs: Any) -> torch.Tensor:
    """What the network gives, if that is (N, classes)."""
    if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2:
        raise typer.BadParameter("the network gives more than one score for each class (auxiliary outputs?)")
    return outputs


def described(model: Any, head: set[str]) -> Iterator[str]:
    """What was put in, and all that was fitted, left out or made anew for it."""
    injection = model.injection
    name = injection.plan.source or type(model).__name__
    yield f"{name} + {injection.plan.attention}: {len(injection.plan.insertions)} sites"
    yield from (f"! {note}" for note in (*injection.plan.notes, *injection.not_kept))
    if head:
        yield f"! the classifier is new: {', '.join(sorted(head))}"
