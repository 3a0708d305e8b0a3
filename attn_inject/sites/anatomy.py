"""A site with its nodes: what the rules hand to `select`, and what a placement is looked up in."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from ..tracing.nodes import owner_of
from ..types import Kind


@dataclass(frozen=True)
class Anatomy:
    """One site in one graph.

    `gated` is the value that the standard placement multiplies; `join` the add or concat; `fork` the value that
    shortcut and branch come from; `branch` and `shortcut` the operands of the add as they enter it; `channel_axis`
    that of `gated`. `frame` is the call of the block as (path, number) where the join does not run in the block's
    own `forward`.
    """

    kind: Kind
    gated: fx.Node
    join: fx.Node
    channel_axis: int
    fork: fx.Node | None = None
    branch: fx.Node | None = None
    shortcut: fx.Node | None = None
    frame: tuple[str, int] | None = None

    @property
    def block(self) -> str:
        return (self.frame or owner_of(self.join))[0]

    @property
    def call(self) -> int:
        return (self.frame or owner_of(self.join))[1]


@dataclass(frozen=True)
class Refusal:
    """An add or a concat that is not a site, or a function within which none is looked for, and the rule that says why.

    `site` is what it would be by itself, were it not for its brothers.
    """

    node: fx.Node
    operation: str
    reason: str
    site: Anatomy | None = None
