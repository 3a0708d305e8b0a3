"""From what names a model to the model's source, its first line, and its input size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from attn_inject.types import Source
from attn_inject.zoo.parsing import parse_source

from .progress import working

if TYPE_CHECKING:
    from torch import nn


def source_of(
    model: str,
    args: Mapping[str, Any],
    *,
    pretrained: bool = False,
    checkpoint: str | None = None,
    seed: int | None = None,
) -> Source:
    """The source that the options name."""
    with working("looking the model up"):
        return parse_source(model, model_args=args, pretrained=pretrained, checkpoint=checkpoint, seed=seed)


def describe(source: Source) -> str:
    """The first line of a report: which source the name was resolved to, and where its weights come from."""
    args = ", ".join(f"{key}={value!r}" for key, value in source.args.items())
    if source.pretrained:
        weights = "pretrained weights"
    elif source.checkpoint:
        weights = f"weights of {source.checkpoint}"
    else:
        weights = "random weights" if source.seed is None else f"random weights, seed {source.seed}"
    return f"{source}{f'({args})' if args else ''}, {weights}"


def input_size_of(asked: int | Iterable[int] | None, model: nn.Module, source: Source) -> tuple[int, ...] | None:
    """(channels, *spatial): what was asked for, with what it leaves out filled in from the model's own size."""
    from attn_inject.zoo.sizes import input_size

    natural = input_size(model, source)
    if asked is None:
        return natural
    given = [asked] if isinstance(asked, int) else list(asked)
    if natural is None or len(given) > 2 or len(given) == len(natural):
        return tuple(given)
    # One number is the height and the width; a clip keeps its length. A sequence has one side only.
    sides = given * 2 if len(given) == 1 else given
    kept = natural[: max(1, len(natural) - 2)]
    return (*kept, *sides[: len(natural) - len(kept)])
