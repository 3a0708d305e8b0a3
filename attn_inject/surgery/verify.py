"""The verb: every patched part of a model held against its postconditions, and against its other form."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ..sites.reading import submodule
from ..tracing.parts import patched_parts
from ..tracing.prepare import taken_out, unwrap
from ..tracing.sharded import must_not_be_sharded
from ..types import Check, Verification
from .attachment import attachments_of
from .forms import as_graph
from .likeness import likeness
from .postconditions import verify_part
from .records import records_of


def verify(original: nn.Module, patched: nn.Module) -> Verification:
    """Check `patched` against `original`; each check comes with its figure. Neither module is changed.

    Of several patched parts each is checked, and a check holds where it holds for all. What `attach` returned is
    checked as the graph over the same weights, and then held against that graph. What the model's code decided on while
    it was read is named too, as `guards`.

    >>> from attn_inject import inject, verify
    >>> from attn_inject.zoo.cifar import models
    >>> model = models()["resnet20"]()
    >>> verification = verify(model, inject(model, "eca"))
    >>> verification.passed, [check.name for check in verification.checks]
    (True, ['edits', 'weights', 'shapes', 'trace', 'finite', 'gradients'])

    Raises:
        PlanError: `patched` is not a patched model, has no graph, or `original` has no part where `patched` has one.

    """
    whole, patched = unwrap(original), taken_out(patched)
    for model in (whole, patched):
        must_not_be_sharded(model)
    parts = patched_parts(as_graph(patched, check=False))
    verification = joined({path: verify_part(submodule(whole, path), part) for path, part in parts.items()})
    alike = [
        likeness(submodule(whole, path), part.inputs, submodule(patched, path), plan.insertions, parts[path])
        for part in attachments_of(patched)
        for plan in (part.injection.plan,)
        for path in (plan.scope or "",)
    ]
    checks = [like.check for like in alike if like.check is not None]
    records = [record for _, record in records_of(patched)]
    return Verification(
        (*verification.checks, *checks),
        guards=tuple(dict.fromkeys(guard for record in records for guard in record.guards)),
        any_size=all(record.any_size for record in records),
    )


def joined(verifications: Mapping[str, Verification]) -> Verification:
    """One verification of all parts: their own checks where there is one part, else each check with all figures."""
    if len(verifications) == 1:
        return next(iter(verifications.values()))
    found: dict[str, list[tuple[str, Check]]] = {}
    for path, verification in verifications.items():
        for check in verification.checks:
            found.setdefault(check.name, []).append((path, check))
    return Verification(
        tuple(
            Check(
                name,
                passed=all(check.passed for _, check in checks),
                figure="; ".join(f"{path}: {check.figure}" for path, check in checks),
            )
            for name, checks in found.items()
        )
    )
