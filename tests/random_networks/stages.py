"""How blocks are held and called: each takes a list of blocks and runs them one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .adding import taken


class Looped(nn.Module):
    """Over a list."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = taken(block(x))
        return x


class Named(nn.Module):
    """Over a dict, keeping every output."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({f"unit_{k}": block for k, block in enumerate(blocks)})

    def forward(self, x: Tensor) -> Tensor:
        outs = [x]
        for name in self.blocks:
            outs.append(taken(self.blocks[name](outs[-1])))
        return outs[-1]


class Numbered(nn.Module):
    """By attribute names that are put together."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.count = len(blocks)
        for k, block in enumerate(blocks):
            setattr(self, f"block{k}", block)

    def forward(self, x: Tensor) -> Tensor:
        for k in range(self.count):
            x = taken(getattr(self, f"block{k}")(x))
        return x


def _run(function: Callable[..., Any], *arguments: Any, preserve: bool = True) -> Any:
    """Stands for checkpointing: a function that is handed the block and what it takes."""
    assert preserve
    return function(*arguments)


class Checkpointed(nn.Module):
    """Each block called by a function that is handed it."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:

            def custom(*inputs: Tensor, block: nn.Module = block) -> Tensor:
                return taken(block(*inputs))

            x = _run(custom, x, preserve=True)
        return x


class Wrapped(nn.Module):
    """Each block in a module that only passes on."""

    class Pass(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return taken(self.inner(x))

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(self.Pass(block) for block in blocks))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Recursive(nn.Module):
    """Each block's stage holds the next one's."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.block = blocks[0]
        self.rest = Recursive(blocks[1:]) if blocks[1:] else None

    def forward(self, x: Tensor) -> Tensor:
        x = taken(self.block(x))
        return x if self.rest is None else self.rest(x)


def nested(blocks: list[nn.Module]) -> nn.Module:
    """Sequentials in Sequentials."""
    return nn.Sequential(*(nn.Sequential(block) for block in blocks))


# Those that take what a block returns as it is.
PLAIN_HOLDERS: tuple[Callable[[list[nn.Module]], nn.Module], ...] = (lambda blocks: nn.Sequential(*blocks), nested)
# Those that look into a tuple or a dict.
HOLDERS: tuple[Callable[[list[nn.Module]], nn.Module], ...] = (
    Looped, Named, Numbered, Checkpointed, Wrapped, Recursive,
)  # fmt: skip


class Unrolled(nn.Module):
    """The sums of several branches in one forward: as many sites, all in this block."""

    def __init__(self, branches: list[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + branch(x)
        return x


class Again(nn.Module):
    """One block, run twice in a pass with the same weights: one site."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = taken(self.block(x))
        return x
