"""Guards: the sizes, types and numbers that a model's code decided on while it was traced.

Where code turns a size into a number or decides a branch on it, the graph holds for that outcome only. So the graph
computes the outcome again whenever it runs, and a `guarded` node compares: another outcome is an error with the line of
the model's code, never a wrong result. A guard that came out differently in a second trace that gave the same graph
is idle and taken out: one of a truth value, since there is no third outcome; one of a text, since texts are written
for people; one of a number if two more sizes agree. So are those of whether a value wants a gradient, where a trace
that answers the other way gives the same graph.
"""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import fx

from ..errors import GuardError
from ..types import Guard
from .lengths import size_split
from .nodes import value_of
from .quoting import quoted
from .writes import index_assign

# What runs between a line of the model's code and us. With the separator: torchvision is not torch.
MACHINERY = tuple(f"{Path(file).parent}{os.sep}" for file in (torch.__file__, __file__))
PLACES, ARGUMENTS = "type or device", "argument"
_PLAIN = (bool, int, float, complex, str, type(None))


def guarded(outcome: Any, traced: Any, line: str, about: str = "") -> None:
    """Compare what a decision came to with what it came to in the trace.

    `about` is `PLACES` if that is of types, `ARGUMENTS` if it is of what the caller gives beside tensors.

    Raises:
        GuardError: another outcome; names the line of the model's code and the two ways out.

    """
    # Compilers that keep sizes open have truth values of their own, which are not compared but asked.
    decided = (True if outcome else False) if isinstance(traced, bool) else outcome  # noqa: SIM210
    if decided != traced and about == PLACES:
        raise GuardError(
            f"the network was traced where {line} came to {traced}, and it comes to {outcome} now: inject into the "
            "model after it is moved or cast, or use attach(), which runs the model's own code"
        )
    if decided != traced:
        such = "with such an argument" if about == ARGUMENTS else "of this size"
        raise GuardError(
            f"the network was traced where {line} came to {traced}, and this input makes it {outcome}: "
            f"pass example_inputs {such} when injecting, or use attach(), which runs the model's own code"
        )


def guarded_in_place(outcome: Any, traced: Any, line: str, about: str = "") -> None:
    """`guarded`, in a forward that attach() wrote.

    Raises:
        GuardError: another outcome; names the line of the model's code and what to do.

    """
    try:
        guarded(outcome, traced, line, about)
    except GuardError as error:
        said, _, _ = str(error).rpartition(": ")
        again = "after the model is moved or cast" if about == PLACES else "with example_inputs that lead to this"
        raise GuardError(f"{said}: detach() it, and attach again {again}") from None


def line_of_code() -> str:
    """The statement of the model's code that is running: its file, the number of its first line, and its text."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(MACHINERY):
        frame = frame.f_back
    path = frame.f_code.co_filename
    number, text = quoted(path, frame.f_lineno)
    return f"{'/'.join(Path(path).parts[-2:])}:{number}" + (f" `{text}`" if text else "")


def guards_of(graph: fx.Graph) -> tuple[Guard, ...]:
    """The guards that a graph checks when it runs, in execution order, each line and outcome once."""
    found = [
        Guard(line=node.args[2], outcome=str(node.args[1]))
        for node in graph.nodes
        if node.op == "call_function" and node.target is guarded
    ]
    return tuple(dict.fromkeys(found))


def same_graph(graph: fx.Graph, other: fx.Graph) -> bool:
    """Whether two graphs compute the same, whatever their guards came to."""
    return _described(graph) == _described(other)


def _described(graph: fx.Graph, left_out: Collection[fx.Node] = ()) -> list[Any]:
    order: dict[fx.Node, int] = {}
    lines: list[Any] = []
    for node in graph.nodes:
        if node.target is guarded or node in left_out:
            continue
        order[node] = len(order)
        # An assertion's message may write down what was asserted.
        given = node.args[:1] if node.target is torch._assert else node.args
        args, kwargs = fx.node.map_arg((given, node.kwargs), lambda n: ("node", order[n]))
        if node.target not in (operator.getitem, index_assign):
            # A checkpoint hands on a tuple of what it was given as a list; for an index alone they differ.
            args = tuple(tuple(arg) if isinstance(arg, list) else arg for arg in args)
        lines.append((node.op, str(node.target), repr(args), repr(kwargs)))
    return lines


def same_but_for_guards(graph: fx.Graph, other: fx.Graph) -> bool:
    """Whether two graphs compute the same, whatever is asked on the way for guards alone."""
    return _described(graph, _for_guards(graph)) == _described(other, _for_guards(other))


def _for_guards(graph: fx.Graph) -> set[fx.Node]:
    """What only guards read, and these."""
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.target is guarded or (
            node.op not in ("placeholder", "output")
            and node.users
            and found.issuperset(node.users)
            and not _holds_tensors(value_of(node))
        ):
            found.add(node)
    return found


def asks_for_gradients(node: fx.Node) -> bool:
    """Whether the node is `x.requires_grad`."""
    return node.target is getattr and len(node.all_input_nodes) == 1 and bool(node.args[1] == "requires_grad")


def asks_for_places(node: fx.Node) -> bool:
    """Whether what `node` gives comes of types and devices, of the model's or of what it is given."""
    return any(isinstance(value_of(each), (torch.dtype, torch.device)) for each in (node, *node.all_input_nodes))


def guards_of_gradients(graph: fx.Graph) -> list[fx.Node]:
    """The guards of whether a value wants a gradient."""
    return [node for node in _guarded(graph) if any(map(asks_for_gradients, _read_for(node)))]


def guards_of_devices(graph: fx.Graph, facts: Collection[str]) -> list[fx.Node]:
    """The guards of where the model is, or what it is given; `facts` are the attributes of a tensor that say so.

    Not those of whether two are on the same device, which moving both does not change.
    """
    found = []
    for guard in _guarded(graph):
        read = _read_for(guard)
        of_types = any(isinstance(value_of(node), torch.dtype) for node in read)
        if not of_types and sum(node.target is getattr and node.args[1] in facts for node in read) == 1:
            found.append(guard)
    return found


def _read_for(guard: fx.Node) -> set[fx.Node]:
    """The numbers and truth values that a guard is made of."""
    found: set[fx.Node] = set()
    pending = list(guard.all_input_nodes)
    while pending:
        node = pending.pop()
        if node not in found and not _holds_tensors(value_of(node)):
            found.add(node)
            pending += node.all_input_nodes
    return found


def idle_guards(graph: fx.Graph, other: fx.Graph) -> list[fx.Node]:
    """The guards of `graph` that decide nothing: in the same graph `other` they came out differently.

    Or they are of the parts of a split whose axis has the same size there, such as the channels, where other sizes do
    not.
    """
    pairs = zip(_guarded(graph), _guarded(other), strict=True)
    return [mine for mine, its in pairs if mine.args[1] != its.args[1] or _splits_what_stays(mine, its)]


def _splits_what_stays(guard: fx.Node, other: fx.Node) -> bool:
    sizes = [_size_counted(node) for node in (guard, other)]
    return sizes[0] is not None and sizes[0] == sizes[1]


def _size_counted(guard: fx.Node) -> int | None:
    """The size of the axis whose parts are counted; None where something else is."""
    number = guard.all_input_nodes[0]
    return size_split(number.all_input_nodes[0]) if number.target is len else None


def needs_more_sizes(idle: fx.Node) -> bool:
    """Whether an idle guard may come to something else than what was seen: a number that is not only written down."""
    converted = idle.all_input_nodes[0].target
    return converted in (int, float, complex, operator.index)


def erase_guards(graph: fx.Graph, guards: Iterable[fx.Node]) -> None:
    """Take guards out of a graph, with the sizes that only they asked for."""
    for node in guards:
        _erase(graph, node)


def _guarded(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.target is guarded]


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    """Erase a guard and the sizes that only it asked for."""
    sources = node.all_input_nodes
    graph.erase_node(node)
    for source in sources:
        if not source.users and source.op != "placeholder" and not _holds_tensors(value_of(source)):
            _erase(graph, source)


def _holds_tensors(value: Any) -> bool:
    return not isinstance(value, (*_PLAIN, torch.Size, torch.dtype, torch.device))
