"""Forwards written anew, so that the modules of a part call the attention that stands in its blocks.

N1. A rewritten forward is made from the graph of the module alone, in which its children are single calls.
N2. A plain Sequential whose own the attention is runs it as one more element, right after what it gates.
N3. Whose own code knows a name under which a new module stands now (timm's `se`), or goes over whatever stands in it
    (a Sequential of somebody's kind), is rewritten too, if another module's code calls the new one.
N4. Where the class's own code is what runs (a method beside the forward, a setting that is another now), what it makes
    passes through the attention, if a child returns that; if none does, it is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import fx, nn

from ..errors import PlanError, first_line
from ..sites.placement import Edit
from ..tracing.must_run import Wanted
from ..tracing.own_code import Gate, OwnCode
from ..tracing.parts import full_path
from ..tracing.rewritten import HOLDER, Passing, Writing, own_class, rewrite_forward
from ..types import Insertion, block_name
from .blocks import Blocks, Spot
from .containers import goes_over_children
from .makers import maker
from .rewrite import edit_forward
from .ways import Ways


def write_forwards(
    part: nn.Module,
    blocks: Blocks,
    ways: Ways,
    kept: dict[str, nn.Module | None],
    wanted: Mapping[str, Sequence[Wanted]],
) -> list[str]:
    """Let the modules of `part` call the new ones, which stand in their blocks; the paths of the buffers this takes.

    `kept` has what stood in the place of new modules, or is called no more, by path; elements that a Sequential loses
    are put there too, before what they held. `wanted` is what must not run without attention, by block.

    Raises:
        PlanError: a module that would have to call attention of several blocks, or whose class allows no other forward.

    """
    constants: list[str] = []
    written: dict[Any, Writing] = {}
    taken = _taken(part, ways.spots, kept)
    for path in dict.fromkeys((*ways.paths, *taken)):
        spots = [spot for spot in ways.spots if spot.path == path]
        module = part.get_submodule(path)
        holders = {spot.insertion.module: _holder(part, spot.insertion) for spot in spots}
        if _is_plain_sequence(module) and spots and all(holder is module for holder in holders.values()):
            names = list(blocks.located.part.get_submodule(path)._modules)
            lost = [_follow(module, names, blocks.edits(spot)["eval"], spot.insertion) for spot in spots]
            before = {**{full_path(path, name): held for each in lost for name, held in each.items()}, **kept}
            kept.clear()
            kept.update(before)
            continue
        trace = blocks.graphs(path)
        outside = set(holders.values()) - set(module.modules())
        if len(outside) > 1:
            raise PlanError(f"{block_name(path)} would call attention of several blocks: use inject")
        # All are looked up before the first is made.
        edits = [
            (_seen_from(module, holders[spot.insertion.module], spot.insertion), blocks.edits(spot)) for spot in spots
        ]
        own = _own_code(blocks, list(zip(spots, edits, strict=True)), kept, taken.get(path, ()))
        for mode, graph in trace.graphs.items():
            edit_forward(graph, [(name, by_mode[mode]) for name, by_mode in edits], taken.get(path, ()))
        for name, tensor in trace.constants.items():
            module.register_buffer(name, tensor.detach(), persistent=False)
            constants.append(full_path(path, name))
        # What a new module stands in the place of is no setting any more.
        settings = [each for each in trace.settings if full_path(path, full_path(each.path, each.name)) not in kept]
        writing = Writing(own_class(module), trace.graphs, trace.fixed_arguments, settings, own)
        # Blocks that do the same have one class.
        writing = written.setdefault(writing.identity, writing)
        try:
            rewrite_forward(module, writing, next(iter(outside), None))
        except TypeError as error:
            raise PlanError(f"{block_name(path)}: its class allows no other forward ({first_line(error)})") from error
    _pass_through(part, ways, wanted)
    return constants


def _own_code(
    blocks: Blocks,
    edits: Sequence[tuple[Spot, tuple[str, Mapping[str, Edit]]]],
    kept: Collection[str],
    taken: Sequence[str],
) -> OwnCode:
    """N4, for one module: its spots, each with the attention's name there and its edits; the names that are `taken`."""
    gates: list[Gate] = []
    refused = list(taken)
    for spot, (attention, by_mode) in edits:
        try:
            if spot.insertion.module in kept:
                raise PlanError(f"its own code may run what is called {attention!r}")
            child, order = maker(blocks.located, spot.insertion, spot.path)
        except PlanError:
            refused += [attention, *(name for edit in by_mode.values() for name in _makers_of(edit.value))]
        else:
            gates.append((child, attention, order))
    return OwnCode(tuple(gates), tuple(dict.fromkeys(refused)))


def _makers_of(value: fx.Node) -> Iterator[str]:
    """The children whose results a value is made of, with no other child between."""
    if value.op == "call_module":
        yield str(value.target)
    else:
        for node in value.all_input_nodes:
            yield from _makers_of(node)


def _taken(part: nn.Module, spots: Iterable[Spot], kept: Collection[str]) -> dict[str, list[str]]:
    """N3: by block, the names of new modules that other modules call, and its own code might."""
    taken: dict[str, list[str]] = {}
    for spot in spots:
        home, _, child = spot.insertion.module.rpartition(".")
        if spot.path != home and (spot.insertion.module in kept or goes_over_children(part.get_submodule(home))):
            taken.setdefault(home, []).append(child)
    return taken


def _holder(part: nn.Module, insertion: Insertion) -> nn.Module:
    """The block that holds a new module."""
    return part.get_submodule(insertion.module.rpartition(".")[0])


def _seen_from(module: nn.Module, holder: nn.Module, insertion: Insertion) -> str:
    """The path of a new module as the code of `module` has it."""
    child = insertion.module.rpartition(".")[2]
    inside = {inner: name for name, inner in module.named_modules()}
    return full_path(inside.get(holder, HOLDER), child)


def _is_plain_sequence(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward and own_class(module) is type(module)


def _follow(sequence: nn.Module, names: list[str], edit: Edit, insertion: Insertion) -> dict[str, nn.Module | None]:
    """N2: let the new module follow the element that gives the value, or stand where the one that it replaces stood
    among `names`, which were there before; what still stood there, by its name.
    """
    child = insertion.module.rpartition(".")[2]
    new = sequence._modules.pop(child)
    element = str((edit.replaced or edit.value).target).partition(".")[0]
    lost: dict[str, nn.Module | None] = {}
    if edit.replaced is not None and element in sequence._modules:
        lost[element] = sequence._modules.pop(element)
    order = list(sequence._modules.items())
    if edit.replaced is None:
        at = 1 + next(index for index, (name, _) in enumerate(order) if name == element)
    else:
        behind = names[names.index(element) + 1 :]
        at = next((index for index, (name, _) in enumerate(order) if name in behind), len(order))
    sequence._modules.clear()
    sequence._modules.update([*order[:at], (child, new), *order[at:]])
    return lost


def _pass_through(part: nn.Module, ways: Ways, wanted: Mapping[str, Sequence[Wanted]]) -> None:
    """Let blocks run their own forward while what children return passes through the attention."""
    by_home: dict[str, list[tuple[str, str, tuple[int, ...] | None]]] = {home: [] for home in wanted}
    for module, (child, order) in ways.makers.items():
        home, _, name = module.rpartition(".")
        by_home.setdefault(home, []).append((child, name, order))
    for home, gates in by_home.items():
        holder = part.get_submodule(home)
        rewrite_forward(holder, Passing(own_class(holder), tuple(gates), tuple(wanted.get(home, ()))), None)
