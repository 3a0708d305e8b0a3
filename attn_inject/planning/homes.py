"""Where a new module lives: in which module of the model, under which name, and in whose place."""

from __future__ import annotations

import itertools
from collections.abc import Collection

from torch import nn

from ..sites.anatomy import Anatomy
from ..sites.found import GraphSites
from ..sites.placement import Edit, edit_for
from ..tracing.nodes import block_of
from ..types import Site
from .choices import Choices


def place_of(graph: GraphSites, site: Site, choices: Choices) -> tuple[Edit, str, str | None] | str:
    """(edit, path of the module that the attention lives in, path of what it replaces), or why there is none."""
    anatomy = graph.anatomies[site.key][0]
    edit = edit_for(graph, anatomy, choices.placement)
    if isinstance(edit, str):
        return edit
    if site.kind == "attention":
        if _is_module_of_its_own(graph, anatomy):
            return edit, _parent(site.block), site.block
        return edit, site.block, None
    replaces = str(edit.replaced.target) if edit.replaced is not None else None
    return edit, _parent(replaces) if replaces else site.block, replaces


def _is_module_of_its_own(graph: GraphSites, anatomy: Anatomy) -> bool:
    """Whether the module that computes an existing gate does nothing else, and is not a block with it written out."""
    inside = set(graph.flow.region(anatomy.gated, anatomy.fork))
    carries = graph.flow.operations.carries
    return all(node in inside for node in graph.flow.order if carries[node] and block_of(node) == anatomy.block)


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def free_name(root: nn.Module, home: str, child: str, taken: Collection[str], replaces: str | None) -> str:
    """`home.child`, or the first `home.child2`, `home.child3` ... that nothing has.

    A name that stands for nothing yet is free: None, or an `Identity` that keeps the place of an attention (timm).
    """
    parent = root.get_submodule(home)
    for number in itertools.count(1):
        name = child if number == 1 else f"{child}{number}"
        path = f"{home}.{name}" if home else name
        held = getattr(parent, name, None)
        if path not in taken and (held is None or type(held) is nn.Identity or path == replaces):
            return path
    raise AssertionError("count never ends")
