"""Whether a concat is what a block hands over: the doubts about concats that look like one (M8, M9, M11).

M8. A further convolution or linear layer reads it. What goes only to the outputs is a head's concat of predictions.
M9. More than one of its parts convolves, and where the map gets smaller, some part convolves more than once: a
    convolution beside a pool, and two shifted convolutions of stride 2, are a stem or a reduction (ENet, DARTS).
    Where the network's blocks are mixed, such a reduction is one of them (Inception-v4). That more of them keep the
    map's size says so: reductions alone do not (PolyNet, whose blocks are residual).
M11. Concats that the same code makes at the same place get one verdict: none is a site where one of them crosses a
    stage (YOLOv5: the stages of its neck hold no block ends, those of its backbone do), or where no more of them are
    than reuse features or join slices of one split (ShuffleNetV2: 13 of its 16 units hand half of their input
    through); and M8 and M9 doubt none whose brother is a site without doubt.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from ..tracing.nodes import value_of
from .anatomy import Anatomy
from .brothers import groups_of
from .flow import Flow
from .operations import name_of, parts_of
from .reasons import CROSS_STAGE, FEATURE_REUSE, HEAD, PAIR, SAME_CODE, SLICES


def doubted(flow: Flow, taken: dict[fx.Node, Anatomy], refused: dict[fx.Node, str]) -> dict[fx.Node, str]:
    """The concats of `taken` that are no block's output after all, with the reason."""
    doubts = {node: reason for node, site in taken.items() if (reason := _doubt(flow, site))}
    gone = {}
    for group in groups_of(flow, [*taken, *refused], only_ones_alike=True):
        sites = [node for node in group if node in taken]
        others = [refused[node] for node in group if node in refused]
        passed_on = sum(why in (FEATURE_REUSE, SLICES) for why in others)
        if sites and (CROSS_STAGE in others or passed_on >= len(sites)):
            gone.update(dict.fromkeys(sites, SAME_CODE))
        elif any(node not in doubts for node in sites):
            for node in sites:
                doubts.pop(node, None)
    sure = taken.keys() - doubts.keys() - gone.keys()
    if sum(not _gets_smaller(taken[node]) for node in sure) > sum(reason == PAIR for reason in doubts.values()):
        doubts = {node: reason for node, reason in doubts.items() if reason != PAIR}
    return {**doubts, **gone}


def _doubt(flow: Flow, site: Anatomy) -> str:
    if not _is_read_on(flow, site.join):
        return HEAD
    return PAIR if _is_pair(flow, site) else ""


def _is_read_on(flow: Flow, join: fx.Node) -> bool:
    """Whether a convolution or a linear layer reads the value, or what is made of it."""
    operations = flow.operations
    seen = {join}
    pending = [join]
    while pending:
        for user in pending.pop().users:
            if user in seen or not operations.carries[user]:
                continue
            if _convolves(flow, user):
                return True
            seen.add(user)
            pending.append(user)
    return False


def _convolves(flow: Flow, node: fx.Node) -> bool:
    """Whether the node is a convolution, or a linear layer, which is one where channels stand last."""
    linear = node.op == "call_module" and isinstance(flow.operations.module(node), nn.Linear)
    return linear or name_of(node) == "linear" or flow.operations.holds_convolution(node)


def _is_pair(flow: Flow, site: Anatomy) -> bool:
    regions = [list(flow.region(part, site.fork)) for part in parts_of(site.join)]
    convolving = [region for region in regions if any(_convolves(flow, node) for node in region)]
    if len(convolving) < 2:
        return True
    return _gets_smaller(site) and all(flow.convolutions_in_a_row(region) < 2 for region in convolving)


def _gets_smaller(site: Anatomy) -> bool:
    """Whether the concat has fewer positions than what its parts are made of."""
    start = value_of(site.fork) if site.fork is not None else None
    return isinstance(start, torch.Tensor) and value_of(site.join).shape[2:].numel() < start.shape[2:].numel()
