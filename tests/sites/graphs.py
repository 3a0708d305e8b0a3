"""Small graphs for tests that ask one rule or one fact: a net on the meta device, its graph, its nodes by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from attn_inject import inject
from attn_inject.sites.flow import Flow
from attn_inject.sites.found import GraphSites
from attn_inject.sites.layout import channel_axes
from attn_inject.sites.select import analyse
from attn_inject.tracing.trace import trace
from attn_inject.types import DEFAULT_KINDS, Kind


class Net(nn.Module):
    """Layers by name and a forward over them, with as many inputs as `run` takes beside the net."""

    def __init__(self, run: Callable[..., Any], **layers: nn.Module | torch.Tensor) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, nn.Parameter(layer) if isinstance(layer, torch.Tensor) else layer)
        self.run = run

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self, x)

    if TYPE_CHECKING:
        # Layers are whatever was given; torch's own annotation says tensor or module.
        def __getattr__(self, name: str) -> Any: ...


class Pair(Net):
    """A net of two inputs."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:  # type: ignore[override]
        return self.run(self, x, y)


def read_on(value: torch.Tensor) -> torch.Tensor:
    """What a network does with a block's output: a linear layer reads it. Without one it would be a head's (M8)."""
    return F.linear(value.flatten(1)[:, :1], torch.ones(1, 1))


@dataclass(frozen=True)
class Read:
    """The eval graph of a net, with what is known about its data flow and its channel axes."""

    root: nn.Module
    graph: fx.Graph
    flow: Flow
    axes: dict[fx.Node, int | None]

    def __getitem__(self, name: str) -> fx.Node:
        return next(node for node in self.graph.nodes if node.name == name)

    @property
    def last(self) -> fx.Node:
        """The value that the net returns."""
        return self.flow.operations.sources(self.output)[0]

    @property
    def output(self) -> fx.Node:
        return next(iter(reversed(self.graph.nodes)))


def read(net: nn.Module, *shapes: tuple[int, ...]) -> Read:
    """The eval graph of `net` for inputs of `shapes`."""
    inputs = tuple(torch.empty(shape, device="meta") for shape in shapes)
    traced = trace(net.to("meta"), inputs=inputs, modes=("eval",))
    graph = traced.graphs["eval"]
    flow = Flow(traced.skeleton, graph)
    return Read(traced.skeleton, graph, flow, channel_axes(flow.operations, graph))


def names(nodes: Any) -> list[str]:
    return [node.name for node in nodes]


def analysed(net: nn.Module, *shapes: tuple[int, ...], kinds: Sequence[Kind] = DEFAULT_KINDS) -> GraphSites:
    """What the rules find in the eval graph of `net`; an input is (2, 16, 8, 8) unless told."""
    found = read(net, *(shapes or [(2, 16, 8, 8)]))
    return analyse(found.root, found.graph, kinds)


def gated(graph: GraphSites) -> list[tuple[str, str]]:
    """(kind, the gated value) of every site."""
    return [(site.kind, site.gated.name) for calls in graph.anatomies.values() for site in calls]


def reasons(graph: GraphSites) -> list[str]:
    return [refusal.reason for refusal in graph.refusals]


def same_at_identity(model: nn.Module, size: tuple[int, ...]) -> None:
    """Identity-initialised SE at all sites: the same output to the bit, each gate run as often as its block."""
    model.eval()
    patched = inject(model, "se", reduction=4, init="identity", input_size=size)
    runs = {insertion.module: 0 for insertion in patched.injection.plan.insertions}
    for path in runs:
        patched.get_submodule(path).register_forward_hook(lambda *_, path=path: runs.__setitem__(path, runs[path] + 1))
    x = torch.randn(2, *size)
    assert torch.equal(patched(x.clone()), model(x.clone()))
    assert runs == {insertion.module: insertion.site.calls for insertion in patched.injection.plan.insertions}
