"""What the caller asked for, checked, and which of the sites it means."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from .attention import child_name
from .errors import PlanError
from .reading import checked_kinds
from .types import (
    DEFAULT_KINDS,
    EXISTING,
    INITS,
    KINDS,
    PLACEMENTS,
    PRESETS,
    Existing,
    Init,
    Kind,
    Placement,
    Preset,
    Site,
    Sites,
    Source,
)


@dataclass(frozen=True)
class Choices:
    """Which sites, and what to put there; the arguments of `inject` in one value."""

    attention: str | type | Callable[..., Any]
    placement: Placement = "standard"
    include: str | Sequence[str] | None = None
    exclude: str | Sequence[str] | None = None
    stages: int | Sequence[int] | None = None
    every: int = 1
    min_channels: int = 0
    init: Init = "paper"
    existing: Existing = "stack"
    preset: Preset | None = None
    name: str | None = None
    stage_options: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    source: Source | None = None


def wanted_kinds(kinds: Sequence[Kind] | Kind, existing: Existing) -> tuple[Kind, ...]:
    """The kinds of sites to look for: with existing="replace", what the network already has is one of them."""
    given = checked_kinds(kinds)
    return (*given, "attention") if existing == "replace" and "attention" not in given else given


def check(choices: Choices) -> None:
    for label, value, allowed in (
        ("placement", choices.placement, PLACEMENTS),
        ("init", choices.init, INITS),
        ("existing", choices.existing, EXISTING),
        ("preset", choices.preset, (None, *PRESETS)),
    ):
        if value not in allowed:
            names = [str(a) for a in allowed if a is not None]
            near = difflib.get_close_matches(str(value), names, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise PlanError(f"{label} must be one of {', '.join(names)}; got {value!r}{hint}")
    if not isinstance(choices.every, int) or choices.every < 1:
        raise PlanError(f"every must be a whole number from 1, got {choices.every!r}")
    if choices.attention == "none" and choices.existing != "replace":
        raise PlanError("attention 'none' takes attention out, so it needs existing='replace'")
    if choices.name is not None and child_name(str(choices.name)) != choices.name:
        raise PlanError(f"name must be an attribute name such as 'se', got {choices.name!r}")


def selected(sites: Sites, choices: Choices) -> list[Site]:
    include, exclude = _patterns(choices.include), _patterns(choices.exclude)
    stages = (choices.stages,) if isinstance(choices.stages, int) else choices.stages
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(site.block, pattern) for site in sites):
            near = difflib.get_close_matches(pattern, [site.block for site in sites], 2)
            hint = f"; did you mean {', '.join(near)}?" if near else f"; blocks are {listing([s.block for s in sites])}"
            raise PlanError(f"pattern {pattern!r} matches no block{hint}")
    if stages is not None and (missing := sorted(set(stages) - {site.stage for site in sites})):
        there = ", ".join(map(str, sorted({site.stage for site in sites})))
        raise PlanError(f"no sites in stage {', '.join(map(str, missing))}: the stages with sites are {there}")
    kept = [
        site
        for site in sites
        if (not include or any(fnmatchcase(site.block, pattern) for pattern in include))
        and not any(fnmatchcase(site.block, pattern) for pattern in exclude)
        and (stages is None or site.stage in stages)
        and site.channels >= choices.min_channels
    ]
    return kept[:: choices.every]


def _patterns(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


def listing(names: Iterable[str], limit: int = 6) -> str:
    unique = list(dict.fromkeys(name or "(root)" for name in names))
    return ", ".join(unique[:limit]) + (f", ... ({len(unique)} in all)" if len(unique) > limit else "")


def no_sites(sites: Sites, kinds: Sequence[Kind]) -> str:
    """Why there is nothing to gate, from what was seen and refused."""
    if not set(kinds) & set(DEFAULT_KINDS):
        return f"no sites of kind {' or '.join(kinds)}: the kinds are {', '.join(KINDS)}"
    counts = Counter(f"{skip.operation} {skip.reason}" for skip in sites.skipped)
    seen = "; ".join(f"{count} x {reason}" for reason, count in counts.most_common())
    return (
        f"no sites: {seen or 'there are neither adds nor concats of feature maps'} (the kind stage gates resolutions)"
    )
