"""Stage sites, asked for by name only: the last value of each resolution, for networks with neither adds nor concats.

S1. Only values that all data passes through count: those that dominate the network's output.
S2. They are feature maps of the first convolution's rank with more than one position; consecutive ones of the same size
    form a resolution.
S3. A resolution without a convolution (a lone pool before the classifier) is none.
S4. The site is the last value before the map is pooled or strided to the next resolution. Where the network gives what
    a bare convolution makes (class scores, an image), perhaps resized, it is what that convolution reads, if another
    convolution and something nonlinear come before.
"""

from __future__ import annotations

import math

from torch import fx

from ..tracing.nodes import value_of
from .anatomy import Anatomy
from .flow import Flow
from .operations import is_map


def find_stages(flow: Flow, axes: dict[fx.Node, int | None], output: fx.Node) -> list[Anatomy]:
    """One site per resolution of the network's main line, in execution order."""
    sources = flow.operations.sources(output)
    if not sources:
        return []
    line = [node for node in flow.mainline(sources[0], None) if is_map(value_of(node))][::-1]
    # What comes before the first convolution may be single images, which are put into a batch only then.
    rank = next((value_of(node).dim() for node in line if flow.holds_convolution(node, None)), 0)
    groups: list[list[fx.Node]] = []
    for node in line:
        axis = axes.get(node)
        if axis is None or node.op == "placeholder":
            continue
        size = spatial_size(node, axis)
        if math.prod(size) <= 1 or value_of(node).dim() != rank:
            continue
        if groups and spatial_size(groups[-1][-1], axes[groups[-1][-1]] or 1) == size:
            groups[-1].append(node)
        else:
            groups.append([node])
    head = _bare_convolution(flow, sources[0])
    sites = []
    for group in groups:
        entry = flow.idom(group[0])
        last = group[-1]
        if head in group[1:]:
            before = group[group.index(head) - 1]
            last = before if flow.holds_convolution(before, entry) and flow.is_nonlinear(before, entry) else last
        if flow.holds_convolution(last, entry):
            sites.append(Anatomy("stage", last, last, axes[last] or 1, entry))
    return sites


def _bare_convolution(flow: Flow, given: fx.Node) -> fx.Node | None:
    """The convolution that makes what the network gives, with no norm and nothing nonlinear behind it."""
    operations = flow.operations
    while operations.is_rearrangement(given) or operations.is_gain(given) or operations.upsamples(given):
        given = operations.sources(given)[0]
    return given if operations.spatial_kernel(given) else None


def spatial_size(node: fx.Node, axis: int) -> tuple[int, ...]:
    """The extent of a value's spatial axes: all but batch and channels."""
    shape = value_of(node).shape
    return tuple(int(extent) for index, extent in enumerate(shape) if index not in (0, axis))
