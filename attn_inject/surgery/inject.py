"""The verb: locate, plan, rewrite, verify."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import TraceError
from ..planning.choices import Choices, explaining_choices
from ..planning.plan import locate_and_plan
from ..tracing.alias import copied
from ..tracing.explain import CodeError
from ..tracing.injected import InjectedModule
from ..tracing.prepare import unwrap
from ..types import DEFAULT_KINDS, Existing, Init, Kind, Placement, Preset, Source
from .apply import apply_to
from .surroundings import must_be_apart


@explaining_choices
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
    copy: bool = False,
    **options: Any,
) -> InjectedModule:
    """Put attention into every block of a convolutional network.

    `model` is left as it was. The result shares its weights (storage, not `Parameter` objects: flags, modes and dtype
    are the result's own), so that training one moves the other, unless `copy` is given.

    >>> from attn_inject import inject
    >>> from attn_inject.zoo.cifar import models
    >>> patched = inject(models()["resnet20"](), "se", reduction=4)
    >>> len(patched.injection.plan.insertions), sum(p.numel() for p in patched.parameters())
    (9, 277786)
    >>> patched.layer1[0].se.fc1.weight.shape
    torch.Size([4, 16])

    Args:
        example_inputs: a tensor, or a tuple with one value per argument; only shapes and dtypes are used.
        (choices)
        copy: whether the result has weights and statistics of its own. What no copy can be made of (a lock, an open
        file) is shared in any case.

    Returns:
        The patched model; with `scope`, the surrounding model of its own class. Its `injection` is the record.

    Raises:
        TraceError, PlanError, AttentionError: what cannot be done, and what to do instead.
        RewriteError: the result failed verification.

    """
    choices = Choices.of_call(locals())
    return inject_as_chosen(copied(model) if copy else model, choices, example_inputs=example_inputs)


def inject_as_chosen(model: nn.Module, choices: Choices, *, example_inputs: Any = None) -> InjectedModule:
    """`inject` with its arguments as one value."""
    must_be_apart(unwrap(model), choices.scope)
    try:
        located, plan = locate_and_plan(model, choices, example_inputs=example_inputs)
    except CodeError as error:
        error.scope = choices.scope or ""
        raise TraceError(f"{error}; attach() needs no graph: it follows one run of the model") from error
    return apply_to(located, plan)
