"""`attn-inject inspect FILE`: what a saved model is, read without building it and without running code from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attn_inject.types import Injection, Plan, guard_notes

from .loading import describe

if TYPE_CHECKING:
    from attn_inject.saving.inspection import CheckpointInfo
    from attn_inject.surgery.folding import Folding


def command(file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that --out wrote.")]) -> None:
    """Say what a saved model is: source, plan, sites, size, versions."""
    from attn_inject.saving.inspection import inspect

    for name, text in _facts(inspect(file)):
        print(f"{name:14}{text}")


def _facts(info: CheckpointInfo) -> Iterator[tuple[str, str]]:
    yield "file", f"{info.path} ({info.bytes:,} bytes)"
    yield "source", describe(info.source) if info.source is not None else "a model that only its maker had"
    for plan in info.plans:
        yield from _of_part(plan)
    if info.folding is not None:
        yield from _of_folding(info.folding)
    if info.inputs:
        yield "inputs", ", ".join(info.inputs)
    if info.tensors:
        dtypes = ", ".join(f"{count} {name}" for name, count in info.dtypes.items())
        yield "tensors", f"{info.tensors} ({dtypes}), {info.elements:,} elements, {info.added:,} of them new"
    if info.attention_only:
        yield "", "the attention only: load it onto a copy of the source"
    parts: list[Injection | CheckpointInfo] = [*info.others, info]
    verified = [part.verification for part in parts if part.verification is not None]
    if len(verified) == len(info.plans):
        checks = dict.fromkeys(check.name for verification in verified for check in verification.checks)
        yield ("verified" if all(verified) else "NOT VERIFIED"), ", ".join(checks)
    yield "versions", ", ".join(f"{name} {version}" for name, version in info.versions.items())
    for part in parts:
        for note in (*part.plan.notes, *guard_notes(part.guards, any_size=part.any_size)):
            yield "note", note


def _of_folding(folding: Folding) -> Iterator[tuple[str, str]]:
    from attn_inject.reporting.views import fold_words

    yield "folded", fold_words.sites(folding)
    for line in fold_words.lines(folding):
        yield "", line
    for block, reason in fold_words.kept(folding).rows:
        yield "not folded", f"{block}: {reason}"


def _of_part(plan: Plan) -> Iterator[tuple[str, str]]:
    yield "attention", f"{plan.attention}, init {plan.init}" + (f", in {plan.scope}" if plan.scope else "")
    groups = Counter(
        (made.site.kind, made.channels, made.placement, tuple(made.options.items())) for made in plan.insertions
    )
    for (kind, channels, placement, options), count in groups.items():
        settings = "".join(f", {key}={value!r}" for key, value in options)
        yield "", f"{count} x {kind}, {channels} channels, {placement}{settings}"
    if plan.removals:
        yield "taken out", f"the attention of {len(plan.removals)} blocks"
