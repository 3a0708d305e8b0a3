"""Same code, same verdict: what the residual rule decided add by add is compared between brothers (R9, R10).

What several blocks put out beside their ends and add up (R14) is told last, among the sites that this leaves.

R9. Adds that the same code makes at the same place get one verdict.
    a. Where one of them is a multi-resolution fusion (R6), all whose branch comes up are, and all that are given both
       operands: the innermost turn of an hourglass, or of a U-Net's decoder, looks like a block for the lack of a
       deeper one.
    b. In a loop, an add is no block's if no more of its turns are than are fusions: the first of several summed maps
       looks like a shortcut. Nor if one of its turns adds to what is no value of the network: a state that starts from
       nothing and is refined (the flow of RAFT).
    c. An add whose block convolves the branch but does not bend it is none if no more of its brothers are than are
       fusions: only what came before the first block (a stem that parts into two streams) made it look like one.
    d. An add is a site where its brothers are though its shortcut is bent (a projection with an activation of its own),
       or though its operands come from two inputs or two slices (the coupling of a reversible block): the block itself
       computes the branch as its brothers do, and has fewer convolutions in a row on the shortcut.
    e. The inverse does not hold: a lone site stays though all its brothers are refused for what they wrap. `x + f(x)`
       as a module of its own (ConvMixer, MobileViT) holds a convolution here and a token mixer there.
    f. A sum of what blocks put out (R14) is one where most of its brothers are: the first of several dense layers that
       all add to one value (DexiNed) may begin where a block's branch ends.
R10. Two affine operands are shortcut and branch where the norm and the activation of the block come after its add
    (ESPNet): the shortcut is the block's input itself, the branch has convolutions in a row, and at least two blocks of
    the same code do so. Re-parameterised branches have one convolution each, and most have no untouched input. The
    other blocks of this code may pool or pad their shortcut, to fit the branch (BlazeFace), but not convolve it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torch import fx

from ..tracing.nodes import block_of, frame_of
from .anatomy import Anatomy, Refusal
from .brothers import groups_of, is_computed_by, way_to
from .flow import Flow
from .outputs import sums_of_outputs
from .reasons import (
    BENDS_ELSEWHERE,
    CONSTANT,
    FUSION,
    MULTI_RESOLUTION,
    ONE_OF_A_LOOP,
    OTHER_INPUTS,
    OUTPUTS,
    REPARAMETERISED,
    SPLIT_SCALE,
    STATE,
)
from .residual import site_at
from .resolution import climbs

Axes = dict[fx.Node, int | None]


def agreed(
    flow: Flow, axes: Axes, sites: Sequence[Anatomy], refusals: Sequence[Refusal]
) -> tuple[list[Anatomy], list[Refusal]]:
    """The sites and refusals of `find_residual` after brothers were compared, each in execution order."""
    taken = {site.join: site for site in sites}
    alone = {refusal.node: refusal.site for refusal in refusals} | taken
    refused = {refusal.node: refusal.reason for refusal in refusals}
    for group in groups_of(flow, [*taken, *refused]):
        if len(group) > 1:
            _leave_what_comes_up(flow, group, taken, refused)
            _leave_first_turns(flow, group, taken, refused)
            _leave_what_bends_elsewhere(flow, group, taken, refused)
            _take_bent_shortcuts(flow, axes, group, taken, refused)
            _take_affine_branches(flow, axes, group, taken, refused)
    order = flow.order.__getitem__
    for node in _most_of_brothers(flow, taken, sums_of_outputs(flow, {n: taken[n] for n in sorted(taken, key=order)})):
        del taken[node]
        refused[node] = OUTPUTS
    return (
        [taken[node] for node in sorted(taken, key=order)],
        [Refusal(node, "add", refused[node], alone.get(node)) for node in sorted(refused, key=order)],
    )


Taken = dict[fx.Node, Anatomy]
Refused = dict[fx.Node, str]


def _leave_what_comes_up(flow: Flow, group: list[fx.Node], taken: Taken, refused: Refused) -> None:
    """R9a."""
    if not any(refused.get(node) == MULTI_RESOLUTION for node in group):
        return
    for node in group:
        site = taken.get(node)
        if site and site.fork and site.shortcut and site.branch:
            # Not the main line alone: what the deeper turns did is behind their adds.
            rises = [
                any(climbs(flow, step) for step in flow.region(way, site.fork)) for way in (site.shortcut, site.branch)
            ]
            given = not any(way_to(flow, way, frame_of(node)).nodes for way in flow.operations.addends(node))
            if rises == [False, True] or given:
                del taken[node]
                refused[node] = MULTI_RESOLUTION


def _leave_first_turns(flow: Flow, group: list[fx.Node], taken: Taken, refused: Refused) -> None:
    """R9b."""
    turns: dict[object, list[fx.Node]] = defaultdict(list)
    for node in group:
        turns[frame_of(node)].append(node)
    for loop in turns.values():
        states = [node for node in loop if refused.get(node) == CONSTANT and _adds_tensors(flow, node)]
        for node in [node for node in loop if node in taken and states]:
            # Not one that only comes to the sum: its branch reads the state.
            if all(_before_gains(flow, each) in states for each in (taken[node].shortcut, taken[node].fork)):
                del taken[node]
                refused[node] = STATE
                states.append(node)
        _leave_unless_more([node for node in loop if node in taken], loop, taken, refused, ONE_OF_A_LOOP)


def _adds_tensors(flow: Flow, node: fx.Node) -> bool:
    """Whether both operands are tensors: the builtin `sum` starts with the number 0."""
    return all(isinstance(each, fx.Node) for each in flow.operations.addends(node))


def _most_of_brothers(flow: Flow, taken: Taken, sums: set[fx.Node]) -> list[fx.Node]:
    """R9f: `sums`, with all of their brothers or with none; as found where there are as many of each."""
    found: list[fx.Node] = []
    for group in groups_of(flow, list(taken)):
        told = [node for node in group if node in sums]
        others = len(group) - len(told)
        if len(told) >= others:
            found += group if len(told) > others else told
    return found


def _before_gains(flow: Flow, node: fx.Node | None) -> fx.Node | None:
    """The value that `node` is, perhaps scaled, detached or laid out in another way."""
    while node is not None and (flow.operations.is_rearrangement(node) or flow.operations.is_gain(node)):
        node = next(iter(flow.operations.sources(node)), None)
    return node


def _leave_what_bends_elsewhere(flow: Flow, group: list[fx.Node], taken: Taken, refused: Refused) -> None:
    """R9c."""
    doubtful = []
    for node in group:
        branch = taken[node].branch if node in taken else None
        if branch is not None:
            way = way_to(flow, branch, frame_of(node))
            if way.holds_convolution(flow) and not way.is_nonlinear(flow):
                doubtful.append(node)
    _leave_unless_more(doubtful, group, taken, refused, BENDS_ELSEWHERE)


def _leave_unless_more(
    doubtful: list[fx.Node], group: list[fx.Node], taken: Taken, refused: Refused, reason: str
) -> None:
    """Refuse the doubtful sites of `group` for `reason`, unless there are more of them than there are fusions."""
    if len(doubtful) <= sum(refused.get(node) in (FUSION, OTHER_INPUTS) for node in group):
        for node in doubtful:
            del taken[node]
            refused[node] = reason


def _take_bent_shortcuts(flow: Flow, axes: Axes, group: list[fx.Node], taken: Taken, refused: Refused) -> None:
    """R9d."""
    sides = {flow.operations.addends(node).index(taken[node].branch) for node in group if node in taken}
    if len(sides) != 1:
        return
    side = sides.pop()
    for node in group:
        if refused.get(node) not in (FUSION, OTHER_INPUTS, SPLIT_SCALE):
            continue
        operands = flow.operations.addends(node)
        shortcut, branch = operands[1 - side], operands[side]
        own, other = way_to(flow, branch, frame_of(node)), way_to(flow, shortcut, frame_of(node))
        if not (block_of(node) and own.holds_convolution(flow) and own.is_nonlinear(flow)):
            continue
        if flow.convolutions_in_a_row(other.nodes) < flow.convolutions_in_a_row(own.nodes):
            _take(flow, axes, node, shortcut, branch, taken, refused)


def _take_affine_branches(flow: Flow, axes: Axes, group: list[fx.Node], taken: Taken, refused: Refused) -> None:
    """R10."""
    untouched, fitted = [], []
    for node in group:
        if not block_of(node) or refused.get(node) != REPARAMETERISED or not _bends_next(flow, node):
            continue
        operands = flow.operations.addends(node)
        for shortcut, branch in (operands, operands[::-1]):
            way, other = way_to(flow, branch, frame_of(node)), way_to(flow, shortcut, frame_of(node))
            if flow.convolutions_in_a_row(way.nodes) > 1 and len(way.inputs) == 1 and way.inputs == other.inputs:
                if all(flow.operations.is_gain(step) for step in other.nodes):
                    untouched.append((node, shortcut, branch))
                elif not other.holds_convolution(flow):
                    fitted.append((node, shortcut, branch))
    if len({block_of(node) for node, _, _ in untouched}) > 1:
        for node, shortcut, branch in untouched + fitted:
            _take(flow, axes, node, shortcut, branch, taken, refused)


def _bends_next(flow: Flow, node: fx.Node) -> bool:
    """Whether the sum is bent, after a norm or without one, before it meets another value or a convolution."""
    operations = flow.operations
    step = node
    while len(readers := [user for user in step.users if operations.carries[user]]) == 1:
        step = readers[0]
        if operations.holds_convolution(step) or len(operations.sources(step)) > 1:
            return False
        if operations.is_nonlinear(step):
            return True
    return False


def _take(
    flow: Flow, axes: Axes, node: fx.Node, shortcut: fx.Node, branch: fx.Node, taken: Taken, refused: Refused
) -> None:
    """Make the add a site; its fork is where the branch enters the block, or the block's own value before both."""
    fork = flow.fork(shortcut, branch)
    if fork is None or not is_computed_by(fork, frame_of(node)):
        inputs = way_to(flow, branch, frame_of(node)).inputs
        fork = max(inputs, key=flow.order.__getitem__)
    site = site_at(flow, axes, node, fork, shortcut, branch)
    if isinstance(site, str):
        refused[node] = site
    else:
        del refused[node]
        taken[node] = site
