"""All blocks of a model, whether attention went in or not: where they are cut, what each costs, which sites it holds.

A model is cut into the modules in which sites stand and all modules beside these. Containers of more than layers are
cut further, so that the blocks of a stage without sites are blocks as well; single layers that follow one another at
one resolution are one row. What runs in no module that is cut out has no row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from torch import nn

from ..cost.amounts import Cost
from ..cost.counting import Count
from ..cost.parameters import holding
from ..types import Insertion, Site, stage_number
from .data import BlockRow, SiteRow


def block_paths(model: nn.Module, insertions: Sequence[Insertion]) -> list[str]:
    """Where a model is cut. A block whose sites are of several stages is cut too: its layers tell them apart.

    Each is followed by its children, which stand in for one whose `forward` is called as a method: no hook sees that.
    """
    stages: dict[str, set[int]] = {}
    for insertion in insertions:
        stages.setdefault(_home(model, insertion.site), set()).add(insertion.site.stage)
    opened = {path for path, numbers in stages.items() if len(numbers) > 1}
    for path in stages:
        opened |= {path[:end] for end, letter in enumerate(path) if letter == "."}
    seen: set[int] = set()

    def cut(path: str, module: nn.Module) -> Iterator[str]:
        for name, child in module.named_children():
            full = f"{path}.{name}" if path else name
            if id(child) in seen:
                continue
            seen.add(id(child))
            if full in opened or _is_list(child) or (full not in stages and _is_sequence_of_blocks(child)):
                yield from cut(full, child)
            else:
                yield full
                yield from (f"{full}.{part}" for part, _ in child.named_children())

    return list(cut("", model))


def _home(model: nn.Module, site: Site) -> str:
    """The block of a site; that of attention which is there already is around it, not the attention itself."""
    path = site.block
    while site.kind == "attention" and path:
        path = path.rpartition(".")[0]
        if not isinstance(model.get_submodule(path), nn.Sequential):
            break
    return path


def _is_list(module: nn.Module) -> bool:
    """Whether a module has no forward of its own, so that only its children run."""
    return type(module).forward is nn.Module.forward


def _is_sequence_of_blocks(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward and not all(map(_is_layer, module.children()))


def _is_layer(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def block_rows(
    model: nn.Module, paths: Sequence[str], counted: Count, sites: Sequence[SiteRow], extent: int
) -> tuple[BlockRow, ...]:
    """A row for each of `block_paths` that ran, in order of execution; `extent` is the input's longest."""
    seen = counted.shapes.keys() & set(paths)
    ran = [path for path in counted.shapes if path in seen and path.rpartition(".")[0] not in seen]
    inside = {path: [site for site in sites if _is_within(site.block, path)] for path in ran}
    single = {path: _row(model, path, counted, inside[path], extent) for path in ran}

    def run(path: str) -> object:
        if inside[path] or not _is_layer(model.get_submodule(path)):
            return path
        return path.rpartition(".")[0], single[path].size

    rows = [_together([single[path] for path in group]) for _, group in groupby(ran, run)]
    held = {module for row in rows for module in row.sites}
    for site in sites:
        if site.module not in held:
            own = BlockRow((site.block,), site.stage, site.size, Cost(), site.added, (site.module,))
            rows.insert(_place(rows, site), own)
    return tuple(rows)


def _row(model: nn.Module, path: str, counted: Count, sites: Sequence[SiteRow], extent: int) -> BlockRow:
    size = sites[-1].size if sites else counted.shapes[path][2:]
    is_map = max(size, default=1) > 1
    held = holding(model.get_submodule(path))
    return BlockRow(
        paths=(path,),
        stage=sites[-1].stage if sites else stage_number(extent, size) if is_map else None,
        size=size,
        cost=replace(counted.parts[path], parameters=held.parameters, buffers=held.buffers),
        added=sum((site.added for site in sites), Cost()),
        sites=tuple(site.module for site in sites),
    )


def _together(rows: Sequence[BlockRow]) -> BlockRow:
    paths = tuple(path for row in rows for path in row.paths)
    return replace(rows[0], paths=paths, cost=sum((row.cost for row in rows), Cost()))


def _place(rows: Sequence[BlockRow], site: SiteRow) -> int:
    """Where the row of a site between blocks goes: after the last of its stage in its block, else after all of it."""
    within = [i for i, row in enumerate(rows) if _is_within(row.paths[-1], site.block)]
    same = [i for i in within if rows[i].stage == site.stage]
    return 1 + max(same or within, default=len(rows) - 1)


def _is_within(path: str, block: str) -> bool:
    return not block or path == block or path.startswith(f"{block}.")
