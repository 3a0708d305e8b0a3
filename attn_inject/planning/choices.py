"""What a caller asked for, as one frozen value, and which of a model's sites it means. No torch in here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from inspect import cleandoc
from numbers import Integral
from typing import Any, TypeVar

from ..attention.base import child_name
from ..errors import PlanError, must_be_whole, nearest, resembling
from ..sites.kinds import checked_kinds
from ..types import (
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
    block_name,
)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Which sites, and what to put there.

    The one home of the arguments that `inject`, `make_plan` and `attach` have in common: their names and defaults are
    those of the fields here, and so are a recipe's keys and the command line's options (tests/planning/test_choices.py
    holds them together).

    Attributes:
        attention: a name (`attn-inject attentions`, `timm:NAME`, `package.module:Class`, `file.py:Class`), with options
            behind it or not (`se:reduction=4`), a class, or a function of the channel count; it must map
            (N, C, *spatial) to the same shape. "none" with existing="replace" takes attention out.
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
        source: where the model comes from, for the record.
        options: passed to the attention (`reduction=16`).

    """

    attention: str | type | Callable[..., Any]
    input_size: int | Iterable[int] | None = None
    kinds: Sequence[Kind] = DEFAULT_KINDS
    placement: Placement = "standard"
    include: str | Sequence[str] | None = None
    exclude: str | Sequence[str] | None = None
    stages: int | Sequence[int] | None = None
    scope: str | None = None
    init: Init = "paper"
    existing: Existing = "stack"
    preset: Preset | None = None
    name: str | None = None
    every: int = 1
    min_channels: int = 0
    stage_options: Mapping[int, Mapping[str, Any]] | None = None
    source: Source | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_call(cls, arguments: Mapping[str, Any]) -> Choices:
        """The choices among the arguments of a function that has all of them: pass it `locals()`."""
        return cls(**{item.name: arguments[item.name] for item in fields(cls)})

    @property
    def wanted_kinds(self) -> tuple[Kind, ...]:
        """The kinds of sites to look for: with existing="replace", what the network already has is one of them."""
        given = checked_kinds(self.kinds)
        return (*given, "attention") if self.existing == "replace" and "attention" not in given else given

    def validate(self) -> None:
        """Refuse choices that no model could make sense of.

        Raises:
            PlanError: names the choice, and what it may be.

        """
        for label, value, allowed in (
            ("placement", self.placement, PLACEMENTS),
            ("init", self.init, INITS),
            ("existing", self.existing, EXISTING),
            ("preset", self.preset, (None, *PRESETS)),
        ):
            if value not in allowed:
                words = [str(word) for word in allowed if word is not None]
                raise PlanError(f"{label} must be one of {', '.join(words)}; got {value!r}{nearest(str(value), words)}")
        for label in ("include", "exclude"):
            _must_list(label, getattr(self, label), str, "a pattern on block paths, or several")
        _must_list("stages", self.stages, Integral, "a stage's number, or several")
        must_be_whole("every", self.every, error=PlanError)
        least: Any = self.min_channels
        if not isinstance(least, Integral) or least < 0:
            raise PlanError(f"min_channels must be a whole number from 0, got {least!r}")
        per_stage = self.stage_options or {}
        if not isinstance(per_stage, Mapping) or not all(isinstance(each, Mapping) for each in per_stage.values()):
            raise PlanError(f"stage_options must be options by stage, such as {{2: {{'k': 3}}}}; got {per_stage!r}")
        if self.attention == "none" and self.existing != "replace":
            raise PlanError("attention 'none' takes attention out, so it needs existing='replace'")
        if self.name is not None and child_name(str(self.name)) != self.name:
            raise PlanError(f"name must be an attribute name such as 'se', got {self.name!r}")


Verb = TypeVar("Verb", bound=Callable[..., Any])


def explaining_choices(verb: Verb) -> Verb:
    """Let a verb's docstring explain the choices where it says `(choices)`, in the words that stand above."""
    # Python 3.13 takes the margin off docstrings, others leave it, and with -OO there are none.
    meanings = cleandoc(Choices.__doc__ or "").partition("Attributes:\n")[2]
    verb.__doc__ = cleandoc(verb.__doc__ or "").replace("    (choices)", meanings)
    return verb


def selected(sites: Sites, choices: Choices) -> list[Site]:
    """The sites that the choices' filters leave, in order.

    Raises:
        PlanError: a pattern that matches no block, or a stage without sites.

    """
    include, exclude = _patterns(choices.include), _patterns(choices.exclude)
    stages = choices.stages if choices.stages is None or isinstance(choices.stages, Iterable) else (choices.stages,)
    for pattern in (*include, *exclude):
        _must_match(pattern, sites, left_out_will_do=pattern not in include)
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


def _must_list(label: str, value: Any, kind: type, wanted: str) -> None:
    """Refuse what is neither None nor one value of that kind nor several."""
    if value is None or isinstance(value, kind):
        return
    # What can be gone through only once would be gone here.
    several = isinstance(value, Collection) and not isinstance(value, (str, Mapping))
    if not several or not all(isinstance(each, kind) for each in value):
        raise PlanError(f"{label} must be {wanted}; got {value!r}")


def _must_match(pattern: str, sites: Sites, *, left_out_will_do: bool) -> None:
    """Refuse a pattern that matches no site's block; one that matches what is left out anyway may do."""
    if any(fnmatchcase(site.block, pattern) for site in sites):
        return
    refused = next((skipped for skipped in sites.skipped if fnmatchcase(skipped.block, pattern)), None)
    if refused is not None:
        if left_out_will_do:
            return
        hint = f"the {refused.operation} in {block_name(refused.block)} is no site: {refused.reason}"
    elif close := resembling(pattern, [site.block for site in sites], count=2):
        hint = f"did you mean {', '.join(close)}?"
    else:
        hint = f"blocks are {listing(site.block for site in sites)}"
    raise PlanError(f"pattern {pattern!r} matches no block; {hint}")


def _patterns(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


def listing(blocks: Iterable[str], limit: int = 6) -> str:
    """The first few names of blocks, and how many there are in all where there are more."""
    unique = list(dict.fromkeys(block_name(block) for block in blocks))
    return ", ".join(unique[:limit]) + (f", ... ({len(unique)} in all)" if len(unique) > limit else "")


def no_sites(sites: Sites, kinds: Sequence[Kind]) -> str:
    """Why there is nothing to gate, from what was seen and refused."""
    if not set(kinds) & set(DEFAULT_KINDS):
        return f"no sites of kind {' or '.join(kinds)}: the kinds are {', '.join(KINDS)}"
    counts = Counter(f"{skip.operation} {skip.reason}" for skip in sites.skipped)
    seen = "; ".join(f"{count} x {reason}" for reason, count in counts.most_common())
    seen = seen or "there are neither adds nor concats of feature maps"
    return f"no sites: {seen} (try kinds='stage')"
