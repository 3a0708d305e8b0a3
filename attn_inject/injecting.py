"""The verb: plan, rewrite, verify."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from .applying import apply_to
from .choosing import Choices, wanted_kinds
from .injected import InjectedModule
from .planning import plan_for
from .reading import read
from .types import DEFAULT_KINDS, Existing, Init, Kind, Placement, Preset, Source


def inject(
    model: nn.Module,
    attention: str | type | Callable[..., Any],
    *,
    example_inputs: Any = None,
    input_size: int | Iterable[int] | None = None,
    kinds: Sequence[Kind] = DEFAULT_KINDS,
    placement: Placement = "standard",
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    stages: int | Sequence[int] | None = None,
    scope: str | None = None,
    init: Init = "paper",
    existing: Existing = "stack",
    preset: Preset | None = None,
    name: str | None = None,
    every: int = 1,
    min_channels: int = 0,
    stage_options: Mapping[int, Mapping[str, Any]] | None = None,
    source: Source | None = None,
    **options: Any,
) -> InjectedModule:
    """Put attention into every block of a convolutional network.

    `model` is left as it was. The result shares its weights (storage, not `Parameter` objects: flags, modes and dtype
    are the result's own); copy the model first if training one must not move the other.

    Args:
        attention: a name (`attention.names()`, `timm:NAME`, `package.module:Class`), a class, or a function of the
            channel count; it must map (N, C, *spatial) to the same shape. "none" with existing="replace" takes
            attention out.
        example_inputs: a tensor, or a tuple with one value per argument; only shapes and dtypes are used.
        input_size: (channels, *spatial) or (*spatial) of one input, or one number; guessed from the model if None.
        kinds: which sites: "residual", "mixed", and, asked for by name only, "plain" (blocks without a skip add whose
            peers have one) and "stage" (the last map of each resolution).
        placement: "standard", "pre", "post", "identity" (SE paper, Table 14), "conv3x3" (its Table 15), or "replace"
            (instead of the spatial convolution: EPSANet).
        include, exclude: shell patterns on block paths (`layer3.*`).
        stages: only these stages; maps of stage n are 2**n times smaller than the input (conv2_x is stage 2).
        scope: a submodule's path; only it is traced and patched, in its place.
        init: "paper", or "identity": the patched model starts by computing exactly what the original does.
        existing: what to do where a block already has channel attention: "stack", "skip" or "replace". What an earlier
            `inject` put in is never gated again: the other blocks get theirs, or there is an error if none is left.
        preset: "paper", "timm" (names, forms and widths of timm's models), or "ecanet" (the authors' kernel sizes).
        name: the attribute name of the new modules, instead of the attention's own.
        every: take every n-th site. min_channels: leave narrower sites out.
        stage_options: options for single stages, such as `{2: {"k": 3}}`.
        options: passed to the attention (`reduction=16`).

    Returns:
        The patched model; with `scope`, the surrounding model of its own class. Its `injection` is the record.

    Raises:
        TraceError, PlanError, AttentionError: what cannot be done, and what to do instead.
        RewriteError: the result failed verification.

    """
    reading = read(
        model, example_inputs=example_inputs, input_size=input_size, kinds=wanted_kinds(kinds, existing), scope=scope
    )
    choices = Choices(
        attention, placement, include, exclude, stages, every, min_channels, init, existing, preset, name,
        stage_options or {}, options, source,
    )  # fmt: skip
    return apply_to(reading, plan_for(reading, choices))
