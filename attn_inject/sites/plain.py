"""Plain sites, asked for by name only: blocks without a skip add in a network whose other blocks have one.

An inverted residual that changes its width or its resolution has no shortcut; ECA's authors gate it all the same
(MobileNetV2: 17 blocks, 10 of them with an add).

 P1. A block is one call of a module that returns one feature map computed from one value, convolves and bends it on
     the way, and neither holds nor stands in a residual or mixed site. An add or a concat in its own `forward` that
     another rule refused makes it something else than a plain block.
 P2. It is the peer of a block with a residual site: its `forward` is the same code; or it stands at the same depth
     below the module that holds all those blocks, and ends linearly as all of them do (a linear bottleneck).
 P3. The gated value is what the peers' add would have read: the returned value, before the activation if the peers
     have theirs after the add, and before gains and drops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from torch import fx

from ..tracing.nodes import block_of, returned_by, value_of
from .anatomy import Anatomy, Refusal
from .brothers import forward_of, runs_in
from .flow import Flow
from .gated import gated_value
from .operations import is_map
from .placement import after_activation

Frame = tuple[str, int]


@dataclass(frozen=True)
class _Peers:
    """What the blocks with a residual site have in common."""

    forwards: frozenset[object]
    activated: frozenset[object]
    """Those of `forwards` that apply an activation after their add."""
    depths: frozenset[int]
    home: str
    linear: bool


def find_plain(
    flow: Flow,
    axes: dict[fx.Node, int | None],
    residual: Sequence[Anatomy],
    mixed: Sequence[Anatomy],
    refusals: Sequence[Refusal],
) -> list[Anatomy]:
    """One site per call of a block without a skip add, in execution order."""
    blocks = [site for site in residual if site.block]
    if not blocks:
        return []
    peers = _peers(flow, blocks)
    taken = {node for site in (*residual, *mixed) for node in _within(flow, site)}
    refused = {(refusal.node, block_of(refusal.node)) for refusal in refusals}
    sites = []
    for value, frame in _returned(flow):
        if value in taken or not is_map(value_of(value)) or not _is_peer(flow, peers, value, frame[0]):
            continue
        fork = _input_of(flow, value, frame)
        if fork is None or not is_map(value_of(fork)):
            continue
        region = list(flow.region(value, fork))
        if any(node in taken or (node, frame[0]) in refused or not runs_in(node, frame[0]) for node in region):
            continue
        if flow.holds_convolution(value, fork) and flow.is_nonlinear(value, fork):
            end = _before_activation(flow, value) if forward_of(flow, frame[0]) in peers.activated else value
            gated = gated_value(flow, fork, end)
            if (axis := axes.get(gated)) is not None:
                sites.append(Anatomy("plain", gated, value, axis, fork, branch=end, frame=frame))
    return sites


def _peers(flow: Flow, blocks: Sequence[Anatomy]) -> _Peers:
    paths = sorted({site.block for site in blocks})
    activated = {site.block for site in blocks if after_activation(flow, site.join) is not site.join}
    return _Peers(
        forwards=frozenset(forward_of(flow, path) for path in paths),
        activated=frozenset(forward_of(flow, path) for path in activated),
        depths=frozenset(path.count(".") for path in paths),
        home=_common(paths),
        linear=not activated and all(_ends_linearly(flow, site.gated) for site in blocks),
    )


def _is_peer(flow: Flow, peers: _Peers, value: fx.Node, path: str) -> bool:
    if not path:
        return False
    if forward_of(flow, path) in peers.forwards:
        return True
    inside = not peers.home or path.startswith(f"{peers.home}.")
    return peers.linear and inside and path.count(".") in peers.depths and _ends_linearly(flow, value)


def _common(paths: Sequence[str]) -> str:
    """The path of the module that holds all of `paths`."""
    levels = zip(*(path.split(".")[:-1] for path in paths), strict=False)
    return ".".join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, levels))


def _within(flow: Flow, site: Anatomy) -> Iterator[fx.Node]:
    """Every node of a site's block, from its fork to its join."""
    yield site.join
    yield from (node for node in flow.region(site.join, site.fork) if node is not site.fork)


def _returned(flow: Flow) -> Iterator[tuple[fx.Node, Frame]]:
    for node in flow.order:
        if flow.operations.carries[node]:
            for frame in returned_by(node):
                yield node, frame


def _input_of(flow: Flow, value: fx.Node, frame: Frame) -> fx.Node | None:
    """The value that all of the call's computation starts from: the nearest on the way back that it did not compute."""
    path, call = frame
    for step in flow.mainline(value, None):
        earlier = any(p == path and c != call for p, c in returned_by(step))
        if earlier or not runs_in(step, path):
            return step
    return None


def _ends_linearly(flow: Flow, value: fx.Node) -> bool:
    """Whether a convolution comes before anything nonlinear on the way back from `value`."""
    for step in flow.mainline(value, None):
        if flow.operations.is_nonlinear(step):
            return False
        if flow.operations.holds_convolution(step):
            return True
    return False


def _before_activation(flow: Flow, value: fx.Node) -> fx.Node:
    sources = flow.operations.sources(value)
    bent = flow.operations.is_nonlinear(value) and not flow.operations.holds_convolution(value)
    return sources[0] if bent and len(sources) == 1 else value
