"""What may run in a block in the place of what was read: its own code decides, and the attention may be passed by.

W1. It is asked where the block's own code runs, or that of a child which holds the gated value, while the block has no
    graph that holds for all inputs and runs the same in both modes.
W2. Children that never ran where the model was read may run in the place of those that did; and those that run on the
    branch alone have the attention behind them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import fx, nn

from ..sites.reading import LocatedModel
from ..tracing.frames import stack_of_node
from ..tracing.must_run import Wanted
from ..types import Insertion, block_name
from .blocks import Blocks
from .ways import Ways


def other_ways(
    located: LocatedModel, blocks: Blocks, ways: Ways, insertions: Sequence[Insertion]
) -> tuple[Mapping[str, list[Wanted]], list[str]]:
    """(by the block that holds attention, what must not run without it; what to say of that)."""
    wanted: dict[str, list[Wanted]] = {}
    said: list[str] = []
    ran = _ran(located)
    for insertion in insertions:
        home, _, name = insertion.module.rpartition(".")
        if insertion.module in ways.left_out or home in ways.paths or not _chooses(located, blocks, ways, insertion):
            continue
        holder = located.part.get_submodule(home)
        strangers = list(_never_run(holder, home, ran))
        others = (*strangers, *_on_the_branch(located, insertion, home))
        if others:
            wanted.setdefault(home, []).append((name, others))
        if strangers:
            named = ", ".join(strangers[:4])
            said.append(
                f"{block_name(insertion.site.block)}: attention where its code chooses {named}, which did not run "
                "where it was read: such a run is refused"
            )
    return wanted, list(dict.fromkeys(said))


def _chooses(located: LocatedModel, blocks: Blocks, ways: Ways, insertion: Insertion) -> bool:
    """W1."""
    if insertion.module in ways.makers:
        return True
    if not (located.trace.recorded or located.trace.guards):
        return False
    home = insertion.module.rpartition(".")[0]
    if not blocks.has_graphs(home) or blocks.graphs(home).guards:
        return True
    run, *others = (_called([graph]) for graph in blocks.graphs(home).graphs.values())
    return any(other != run for other in others)


def _ran(located: LocatedModel) -> set[str]:
    """The paths of the modules that ran where the model was read."""
    calls = {path for by_frame in located.trace.calls.values() for path, _ in by_frame}
    return calls | _called(located.trace.graphs.values())


def _called(graphs: Iterable[fx.Graph]) -> set[str]:
    return {str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_module"}


def _never_run(holder: nn.Module, home: str, ran: set[str]) -> Iterator[str]:
    """The outermost children that the block's own code might run, and that did not, nor did anything in them."""
    prefix = f"{home}." if home else ""

    def search(module: nn.Module, path: str) -> Iterator[str]:
        for name, child in module.named_children():
            inner = f"{path}.{name}" if path else name
            full = f"{prefix}{inner}"
            if full in ran:
                continue  # What it runs is decided in its own code.
            if any(other.startswith(f"{full}.") for other in ran) or type(child).forward is nn.Module.forward:
                yield from search(child, inner)
            elif any(True for _ in child.parameters()):
                yield inner

    yield from search(holder, "")


def _on_the_branch(located: LocatedModel, insertion: Insertion, home: str) -> list[str]:
    """The children of a block that run on the way from the block's fork to the gated value, and nowhere else in it."""
    mode, graph = next(iter(located.graphs.items()))
    calls = located.trace.calls[mode]
    anatomy = graph.of_plan(insertion.site)[0]
    if anatomy.fork is None or anatomy.branch is None:
        return []

    def child(node: fx.Node) -> str:
        paths = [path for path, _ in stack_of_node(calls, node)]
        if node.op == "call_module":
            paths.append(str(node.target))
        below = paths[paths.index(home) + 1 :] if home in paths else []
        return below[0] if below and below[0] != home else ""

    region = set(graph.flow.region(anatomy.branch, anatomy.fork)) - {anatomy.fork}
    inside, outside = ({child(node) for node in nodes} for nodes in (region, set(graph.flow.order) - region))
    prefix = f"{home}." if home else ""
    return sorted(path.removeprefix(prefix) for path in inside - outside - {""})
