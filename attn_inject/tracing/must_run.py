"""Blocks whose own code may go another way than where they were read, past the attention: such a run is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..errors import GuardError

Wanted = tuple[str, tuple[str, ...]]
"""(the attention's path in a block, the paths of what runs in its code only where the attention runs too)."""


@contextmanager
def must_run(block: nn.Module, wanted: Sequence[Wanted]) -> Iterator[None]:
    """See that the attention runs in here wherever what it belongs to does: a branch that is left out needs none.

    Raises:
        GuardError: it did not; names the block and what ran.

    """
    # A compiler would have to follow the hooks.
    if torch.compiler.is_compiling():
        yield
        return
    owner, ran = threading.get_ident(), set[str]()

    def noting(path: str) -> Any:
        def note(*_: Any) -> None:
            if threading.get_ident() == owner:
                ran.add(path)

        return note

    paths = dict.fromkeys(path for attention, others in wanted for path in (attention, *others))
    present = [path for path in paths if _has(block, path)]
    handles = [block.get_submodule(path).register_forward_hook(noting(path)) for path in present]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    for attention, others in wanted:
        past = [path for path in others if path in ran]
        if past and attention in present and attention not in ran:
            raise GuardError(
                f"this {type(block).__name__} ran {', '.join(past[:3])} without its attention {attention!r}: its code "
                "went another way than where it was read; attach with example_inputs that lead this way, or leave the "
                "block out (exclude=)"
            )


def _has(block: nn.Module, path: str) -> bool:
    try:
        block.get_submodule(path)
    except AttributeError:
        return False
    return True
