"""The frozen vocabulary: what the steps hand to one another. No torch in here, so that reading a plan costs nothing."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, overload

Kind = Literal["residual", "mixed", "plain", "stage", "attention"]
Layout = Literal["channels_first", "channels_last"]
Placement = Literal["standard", "pre", "post", "identity", "conv3x3", "replace"]
Init = Literal["paper", "identity"]
Existing = Literal["stack", "skip", "replace"]
Preset = Literal["paper", "timm", "ecanet"]
Form = Literal["graph", "module"]
Measure = Literal["accuracy", "loss", "outputs"]

KINDS: tuple[Kind, ...] = ("residual", "mixed", "plain", "stage", "attention")
DEFAULT_KINDS: tuple[Kind, ...] = ("residual", "mixed")
PLACEMENTS: tuple[Placement, ...] = ("standard", "pre", "post", "identity", "conv3x3", "replace")
INITS: tuple[Init, ...] = ("paper", "identity")
EXISTING: tuple[Existing, ...] = ("stack", "skip", "replace")
PRESETS: tuple[Preset, ...] = ("paper", "timm", "ecanet")
FORMS: tuple[Form, ...] = ("graph", "module")
FOLD_MEASURES: tuple[Measure, ...] = ("outputs", "accuracy")


def block_name(path: str) -> str:
    """How people read a block's path: the empty path is the model itself."""
    return path or "(model)"


def counted(number: int, what: str) -> str:
    """`1 site`, `2 sites`, `1,200 images`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def stage_number(extent: int, size: tuple[int, ...]) -> int:
    """The n for which maps of `size` are 2**n times smaller than an input of that extent, the longest of each.

    >>> stage_number(224, (56, 56)), stage_number(224, ())
    (2, 0)
    """
    longest = max(size, default=0)
    return max(round(math.log2(extent / longest)), 0) if longest else 0


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from.

    `kind` is `timm`, `torchvision`, `cifar`, `module` (`package.module:factory`), `file` (`path.py:factory`) or
    `object` (an `nn.Module` the caller holds; `name` is then its class). `args` are the factory's keyword arguments.

    >>> str(Source("timm", "resnet50")), str(Source("module", "mynets:make", {"depth": 20}))
    ('timm:resnet50', 'mynets:make')
    """

    kind: str
    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    checkpoint: str | None = None
    seed: int | None = None

    def __str__(self) -> str:
        prefix = "" if self.kind in ("module", "file", "object") else f"{self.kind}:"
        return prefix + self.name


@dataclass(frozen=True, slots=True)
class Site:
    """One place where a block hands over its output, or (kind "attention") where a network already gates channels.

    `block` is the path of the module in whose `forward` the add (or concat) runs, `""` for the model itself, and
    `index` counts the sites of one kind inside that block. `channels` and `size` (spatial, input resolution as traced)
    describe the gated value; `stage` is the papers' number: maps of stage n are 2**n times smaller than the input
    (ResNet's conv2_x is stage 2). `calls` is how often the block runs in one forward pass: a shared block shares its
    attention. `existing` names channel attention already in the block. `node` and `join` are the gated value's and the
    add's (concat's) names in the eval graph, for people to read.
    """

    kind: Kind
    block: str
    index: int
    channels: int
    size: tuple[int, ...]
    layout: Layout
    stage: int
    node: str
    join: str
    calls: int = 1
    existing: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies the site in its model, whatever the names of graph nodes."""
        return (self.kind, self.block, self.index)


@dataclass(frozen=True, slots=True)
class Skipped:
    """An add, a subtraction or a concat that is not a site, or a function within which none is looked for, and why."""

    node: str
    block: str
    operation: str
    reason: str


@dataclass(frozen=True, slots=True)
class Guard:
    """A decision of the model's code that the trace holds for: the line of code, and what it came to."""

    line: str
    outcome: str

    def __str__(self) -> str:
        return f"{self.line} came to {self.outcome}"


def guard_notes(guards: Sequence[Guard], *, any_size: bool, most: int = 3) -> list[str]:
    """What people must know of a trace that holds for certain sizes only: a sentence each, the first `most` guards.

    >>> from attn_inject.types import Guard, guard_notes
    >>> guard_notes([Guard("net.py:7 `if h % 2:`", "False")], any_size=True)
    ['holds while net.py:7 `if h % 2:` comes to False; an input that makes it otherwise is refused']
    """
    lines = [
        f"holds while {guard.line} comes to {guard.outcome}; an input that makes it otherwise is refused"
        for guard in guards[:most]
    ]
    if len(guards) > most:
        lines.append(f"and {len(guards) - most} more decisions like these, each checked when the model runs")
    if not any_size:
        only = "traced for this input size: at no other one was the same graph found"
        lines.insert(0, f"{only} (attach() and --form module take any)")
    return lines


class Printed:
    """What prints as a table in a terminal and in a notebook, and whose `repr` is one short line."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def _aligned(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Columns two blanks apart; a column of numbers stands right."""
    cells = [header, *([str(cell) for cell in row] for row in rows)]
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(cell.isdigit() for cell in column[1:]) for column in columns]
    return [
        "  ".join(
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]


def _kinds(sites: Iterable[Site]) -> str:
    """16 residual, 2 mixed."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(site.kind for site in sites).items()) or "none"


def _size(site: Site) -> str:
    return "x".join(map(str, site.size)) or "-"


@dataclass(frozen=True, slots=True, repr=False)
class Sites(Printed, Sequence[Site]):
    """A sequence of `Site` in execution order; `.skipped` has every add and concat that is not one.

    `guards` are the decisions of the model's code that hold for the sizes it was traced at. `any_size` is whether a
    second trace, at another size and batch, gave the same graph. `recorded` says why the model has no graph, so that
    its sites are those of one run: `attach` can gate them, `inject` cannot.
    """

    items: tuple[Site, ...]
    skipped: tuple[Skipped, ...] = ()
    guards: tuple[Guard, ...] = ()
    any_size: bool = True
    recorded: str = ""

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Site: ...
    @overload
    def __getitem__(self, index: slice) -> Sites: ...
    def __getitem__(self, index: int | slice) -> Site | Sites:
        if isinstance(index, slice):
            return replace(self, items=self.items[index])
        return self.items[index]

    def __iter__(self) -> Iterator[Site]:
        return iter(self.items)

    def __repr__(self) -> str:
        return f"Sites({_kinds(self)}; {len(self.skipped)} skipped)"

    def __str__(self) -> str:
        rows = [
            (block_name(site.block), site.kind, site.stage, site.channels, _size(site), site.existing) for site in self
        ]
        header = ("block", "kind", "stage", "channels", "size", "has already")
        shown = len(header) - (not any(row[-1] for row in rows))
        lines = [counted(len(self), "site")]
        lines += _aligned(header[:shown], [row[:shown] for row in rows]) if rows else []
        lines += [f"from one run, since there is no graph: {self.recorded}"] if self.recorded else []
        lines += guard_notes(self.guards, any_size=self.any_size)
        lines += [f"{len(self.skipped)} adds and concats are no site: .skipped says why"] if self.skipped else []
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Insertion:
    """One new attention module at one site.

    `module` is the path the module gets in the model (`layer1.0.se`). `attention` is a name that
    `attention.resolve` understands. `options` are the module's keyword arguments beside the channel count, and
    `channels` that count: the gated value's, which for placements inside the block is not the site's. `replaces` is the
    path of the module that the attention takes the place of (placement `replace`, existing `replace`), or None.
    """

    site: Site
    module: str
    attention: str
    options: Mapping[str, Any] = field(default_factory=dict)
    placement: Placement = "standard"
    init: Init = "paper"
    channels: int = 0
    replaces: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Plan(Printed):
    """Sites x attention x options: what the rewrite does and nothing else.

    `removals` are blocks whose existing channel attention is taken out without a successor (`--attention none
    --existing replace`). `factory` is the caller's own class or function where `attention` names one that cannot be
    imported by name; it is not part of the plan's text.
    """

    insertions: tuple[Insertion, ...]
    attention: str
    init: Init = "paper"
    removals: tuple[Site, ...] = ()
    source: Source | None = None
    scope: str | None = None
    kinds: tuple[Kind, ...] = DEFAULT_KINDS
    input_shape: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    factory: Callable[..., Any] | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        source = f", {self.source}" if self.source is not None else ""
        return f"Plan({self.attention} at {_kinds(made.site for made in self.insertions)}{source})"

    def __str__(self) -> str:
        rows = [
            (
                block_name(made.site.block),
                made.site.kind,
                made.module,
                made.attention + "".join(f", {key}={value!r}" for key, value in made.options.items()),
                made.channels,
                _size(made.site),
                made.placement,
            )
            for made in self.insertions
        ]
        lines = [f"{self.attention} at {counted(len(rows), 'site')}, init {self.init}"]
        lines[0] += f", in {self.scope}" if self.scope else ""
        lines[0] += f", of {self.source}" if self.source is not None else ""
        if rows:
            lines += _aligned(("block", "kind", "module", "attention", "channels", "size", "placement"), rows)
        lines += [f"taken out of {block_name(site.block)}: {site.existing}" for site in self.removals]
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True, slots=True)
class Effect:
    """What a network loses by a change: the mean over images, with the bounds of its interval.

    In some `Measure`: a share of right answers (0.01 is one point), a loss, or the relative change of the outputs. The
    bounds are None where there are too few images for an interval.
    """

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Check:
    """One postcondition: its name, whether it holds, and the figure that shows it."""

    name: str
    passed: bool
    figure: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What was checked on a patched model, each check with its figure.

    `guards` and `any_size` are what `verify` found in the records: the checks hold where the guards do. In a record,
    which has its own, they are empty.
    """

    checks: tuple[Check, ...]
    guards: tuple[Guard, ...] = ()
    any_size: bool = True

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        lines = [f"{'ok  ' if c.passed else 'FAIL'} {c.name}: {c.figure}" for c in self.checks]
        return "\n".join([*lines, *guard_notes(self.guards, any_size=self.any_size)])


@dataclass(frozen=True, slots=True, repr=False)
class Injection(Printed):
    """The record that a patched model carries: what was put in, into what, by which versions, how verified.

    Where several submodules were patched one after the other (`scope`), it is that of the last one, and `others` are
    those of the rest, in the order of the tree.
    """

    plan: Plan
    versions: Mapping[str, str]
    verification: Verification | None = None
    fingerprint: str = ""
    not_kept: tuple[str, ...] = ()
    guards: tuple[Guard, ...] = ()
    any_size: bool = True
    others: tuple[Injection, ...] = ()

    def __repr__(self) -> str:
        verified = "not verified" if self.verification is None else "verified" if self.verification else "NOT VERIFIED"
        return f"Injection({self.plan!r}, {verified})"

    def __str__(self) -> str:
        lines = [str(part.plan) for part in (*self.others, self)]
        if self.verification is not None:
            lines.append(str(self.verification))
        lines += guard_notes(self.guards, any_size=self.any_size)
        lines += [f"not kept: {loss}" for loss in self.not_kept]
        lines.append(", ".join(f"{name} {version}" for name, version in self.versions.items()))
        return "\n".join(line for line in lines if line)
