"""Where maps of several resolutions meet: R6 of `residual`, and M10 of `concat`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import torch
from torch import fx

from ..tracing.nodes import block_of, frame_of, value_of
from .anatomy import Anatomy
from .flow import Flow


def climbs(flow: Flow, node: fx.Node) -> bool:
    """Whether the node's output has more positions than its input."""
    if not flow.operations.upsamples(node):
        return False
    before, after = value_of(flow.operations.sources(node)[0]), value_of(node)
    return not isinstance(before, torch.Tensor) or before.shape[2:].numel() < after.shape[2:].numel()


def is_multi_resolution(
    flow: Flow, node: fx.Node, fork: fx.Node, shortcut: fx.Node, branch: fx.Node, joins: Collection[fx.Node]
) -> bool:
    """R6: whether the add `node` brings together what was computed at several resolutions."""
    rises = [any(True for _ in _ways_up(flow, operand, fork)) for operand in (shortcut, branch)]
    if rises == [False, False] and flow.operations.upsamples(branch):
        # Resampled to fit the other, whose size is its own here: a level of a pyramid, if it is read as such.
        return _is_read_elsewhere(flow, branch, fork)
    if rises != [False, True] or _stays_in_one_child(flow, fork, branch, block_of(node)):
        return False
    if flow.holds_convolution(shortcut, fork):
        return True
    return _is_read_elsewhere(flow, branch, fork) or not set(flow.region(branch, fork)).isdisjoint(joins)


def is_level_within(flow: Flow, site: Anatomy, fusions: Iterable[fx.Node]) -> bool:
    """R6: whether the site comes up, in several children, in the very call and on the way of one of the `fusions`."""
    if not (site.fork and site.shortcut and site.branch):
        return False
    rises = [any(True for _ in _ways_up(flow, operand, site.fork)) for operand in (site.shortcut, site.branch)]
    if rises != [False, True] or _stays_in_one_child(flow, site.fork, site.branch, block_of(site.join)):
        return False
    return any(frame_of(each) == frame_of(site.join) and flow.descends(each, site.join) for each in fusions)


def _is_read_elsewhere(flow: Flow, branch: fx.Node, fork: fx.Node) -> bool:
    """Whether a value on the way from `fork` to `branch` goes on somewhere else."""
    region = set(flow.region(branch, fork))
    return any(user not in region for node in region - {branch} for user in node.users if flow.operations.carries[user])


def _ways_up(flow: Flow, operand: fx.Node, fork: fx.Node) -> Iterator[fx.Node]:
    """The values on the way to the operand that come up to more positions, by one operation or by two ways at once."""
    later: tuple[fx.Node, int] | None = None
    for step in flow.mainline(operand, fork):
        if climbs(flow, step):
            yield step
        value = value_of(step)
        if not isinstance(value, torch.Tensor) or value.dim() < 3:
            continue
        positions = value.shape[2:].numel()
        if later is not None and positions < later[1] and not climbs(flow, later[0]):
            within = flow.region(later[0], step)
            if any(climbs(flow, each) for each in within):
                yield later[0]
        later = step, positions


def _stays_in_one_child(flow: Flow, fork: fx.Node, branch: fx.Node, block: str) -> bool:
    """Whether all of the branch that is coarser than its end, and the way back up, runs in one child of the block."""
    end = value_of(branch).shape[2:].numel()
    children = set()
    risen = set(_ways_up(flow, branch, fork))
    for step in flow.mainline(branch, fork):
        value = value_of(step)
        if step in risen or (isinstance(value, torch.Tensor) and value.shape[2:].numel() < end):
            path = str(step.target) if step.op == "call_module" else block_of(step)
            inside = path.removeprefix(f"{block}." if block else "")
            children.add(inside.split(".")[0] if inside != path or not block else "")
    return len(children) == 1 and "" not in children


def comes_back(flow: Flow, join: fx.Node, fork: fx.Node) -> bool:
    """M10: whether anything on the way from `fork` to the concat comes up from a map that is coarser than both."""
    start = value_of(fork if isinstance(value_of(fork), torch.Tensor) else join)
    positions = min(start.shape[2:].numel(), value_of(join).shape[2:].numel())
    for step in flow.region(join, fork):
        if climbs(flow, step):
            before = value_of(flow.operations.sources(step)[0])
            if not isinstance(before, torch.Tensor) or before.shape[2:].numel() < positions:
                return True
    return False
