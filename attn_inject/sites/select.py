"""All rules on one graph, and the two graphs of a trace brought together into `Site`s."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import fx, nn

from ..tracing.nodes import leaves_torch, owner_of, value_of
from ..tracing.trace import Trace
from ..types import Kind, Site, Sites, Skipped, stage_number
from .agreement import agreed
from .anatomy import Anatomy, Refusal
from .concat import find_mixed
from .existing import anatomy_of, existing_attention, find_attention
from .flow import Flow
from .found import GraphSites, Key, Located
from .layout import gateable_axes
from .operations import name_of
from .plain import find_plain
from .reasons import NOT_TRAINED, RUNS_MODULES, TRAIN_DIFFERS
from .residual import cells_of, find_differences, find_residual
from .stage import find_stages, spatial_size
from .trained import with_gradients, written_by_the_model


def analyse(root: nn.Module, graph: fx.Graph, kinds: Sequence[Kind]) -> GraphSites:
    """Apply the rules of `kinds` to one annotated graph."""
    flow = Flow(root, graph)
    axes = gateable_axes(flow.operations, graph)
    residual, adds = agreed(flow, axes, *find_residual(flow, axes))
    mixed, concats = find_mixed(flow, axes, residual, cells_of(adds))
    differences = find_differences(flow, axes, {site.join: site for site in residual})
    output = next(iter(reversed(graph.nodes)))
    stages = find_stages(flow, axes, output) if "stage" in kinds else []
    plain = find_plain(flow, axes, residual, mixed, [*adds, *concats]) if "plain" in kinds else []
    sites: dict[Key, list[Anatomy]] = {}
    unread: list[Refusal] = []
    counters: dict[tuple[str, str, int], int] = defaultdict(int)
    gates = find_attention(flow)
    places = [anatomy_of(flow, found) for found in gates.values()] if "attention" in kinds else []
    everything = sorted([*residual, *mixed, *plain, *stages, *places], key=lambda site: flow.order[site.join])
    live = _live(output)
    for anatomy in everything:
        if anatomy.kind in kinds and anatomy.join not in live:
            reason = "its value reaches no output of the network"
            unread.append(Refusal(anatomy.join, _operation(anatomy.kind), reason))
        elif anatomy.kind in kinds:
            frame = (anatomy.kind, anatomy.block, anatomy.call)
            key = (anatomy.kind, anatomy.block, counters[frame])
            counters[frame] += 1
            sites.setdefault(key, []).append(anatomy)
    unread += [Refusal(node, "function", RUNS_MODULES) for node in flow.order if flow.operations.runs_modules(node)]
    return GraphSites(flow, sites, [*adds, *concats, *differences, *unread], gates, axes)


def _live(output: fx.Node) -> set[fx.Node]:
    """The nodes from which a value reaches the output, or leaves as an array or numbers, which no trace sees."""
    live = {output, *(node for node in output.graph.nodes if leaves_torch(name_of(node), value_of(node)))}
    pending = list(live)
    while pending:
        sources = [source for source in pending.pop().all_input_nodes if source not in live]
        live.update(sources)
        pending += sources
    return live


def locate(trace: Trace, kinds: Sequence[Kind]) -> Located:
    """Find the sites of both graphs and match them by block; what is one in one mode alone is none, and says so."""
    graphs = {mode: analyse(trace.skeleton, graph, kinds) for mode, graph in trace.graphs.items()}
    first = graphs.get("eval") or next(iter(graphs.values()))
    for other in graphs.values():
        for key in [key for key in first.anatomies if key not in other.anatomies]:
            first.refusals.extend(
                Refusal(one.join, _operation(key[0]), TRAIN_DIFFERS) for one in first.anatomies.pop(key)
            )
    if not trace.recorded:
        _leave_what_is_not_trained(first, graphs.get("train", first), trace.graphs)
    extent: int = max((trace.input_shape or (1, 1, 1))[2:], default=1)
    every = [anatomy for calls in first.anatomies.values() for anatomy in calls if anatomy.kind != "attention"]
    items = tuple(_site(first, key, calls, extent, every) for key, calls in first.anatomies.items())
    skipped = tuple(
        Skipped(r.node.name, owner_of(r.node)[0], r.operation, r.reason)
        for r in sorted(first.refusals, key=lambda r: first.flow.order[r.node])
    )
    return Located(Sites(items, skipped, trace.guards, trace.any_size, trace.recorded), graphs)


def _leave_what_is_not_trained(first: GraphSites, train: GraphSites, graphs: Mapping[str, fx.Graph]) -> None:
    """R15."""
    graph = graphs.get("train") or next(iter(graphs.values()))
    trained, is_written = with_gradients(graph), written_by_the_model(graph)
    for key in list(first.anatomies):
        if any(one.gated in trained for one in train.anatomies[key]) or is_written(key[1]):
            continue
        first.refusals.extend(
            Refusal(one.join, _operation(key[0]), NOT_TRAINED, one) for one in first.anatomies.pop(key)
        )


def _operation(kind: str) -> str:
    return {"residual": "add", "mixed": "concat"}.get(kind, "block")


def _site(graph: GraphSites, key: Key, calls: list[Anatomy], extent: int, every: Sequence[Anatomy]) -> Site:
    anatomy = calls[0]
    kind, block, index = anatomy.kind, key[1], key[2]
    axis = anatomy.channel_axis
    value = value_of(anatomy.gated)
    size = spatial_size(anatomy.gated, axis)
    return Site(
        kind=kind,
        block=block,
        index=index,
        channels=int(value.shape[axis]),
        size=size,
        layout="channels_first" if axis == 1 else "channels_last",
        stage=stage_number(extent, size),
        node=anatomy.gated.name,
        join=anatomy.join.name,
        calls=len(calls),
        existing=existing_attention(graph.flow, anatomy, graph.existing, every),
    )
