"""Networks grown from a seed, whose blocks are known because they were put there.

    python -m tests.sites.grown --seeds 5000

Every piece says what it is: a block with a skip add, a block that ends in a concat of branches, or something that only
looks like one. Activations, norms, adds, projections, gains, drops, widths and the modules around vary at random.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from attn_inject import AttnInjectError, find_sites, inject

from ..toys import SPELLINGS

SIZE = (3, 32, 32)
Make = Callable[[int], nn.Module]


class Apply(nn.Module):
    """A function as a module, for what is usually written as a call."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class ChannelsLastNorm(nn.LayerNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DropPath(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        return x * torch.empty(x.shape[0], 1, 1, 1, device=x.device).bernoulli_(0.8) / 0.8


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(width, 1, 1) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


@dataclass(frozen=True)
class Style:
    """How one network, or one block, is written."""

    add: str
    act: Callable[[], nn.Module]
    norm: Make
    gain: Make
    drop: Callable[[], nn.Module]

    @classmethod
    def drawn(cls, draw: random.Random) -> Style:
        return cls(
            draw.choice(list(SPELLINGS)),
            draw.choice(
                [nn.ReLU, nn.SiLU, lambda: nn.ReLU(inplace=True), lambda: Apply(F.gelu), lambda: Apply(torch.relu)]
            ),
            draw.choice([nn.BatchNorm2d, lambda n: nn.GroupNorm(1, n), nn.InstanceNorm2d, ChannelsLastNorm]),
            draw.choice([lambda _: nn.Identity()] * 3 + [lambda _: Apply(lambda x: x * 0.7), LayerScale]),
            draw.choice([nn.Identity, nn.Identity, lambda: nn.Dropout(0.1), DropPath]),
        )


def conv(i: int, o: int, k: int = 3, s: int = 1, groups: int = 1) -> nn.Module:
    return nn.Conv2d(i, o, k, s, k // 2, groups=groups, bias=False)


class Block(nn.Module):
    """A skip add: `kind` is what it must be found as."""

    kind: str | None = "residual"

    def __init__(self, branch: nn.Module, shortcut: nn.Module, style: Style, width: int, *, act_after: bool) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut
        self.gain, self.drop = style.gain(width), style.drop()
        self.add = SPELLINGS[style.add]
        self.last = style.act() if act_after else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.shortcut(x)
        return self.last(self.add(self.drop(self.gain(self.branch(x))), shortcut))


class PreActivated(nn.Module):
    """ResNetV2: the projection starts behind the first norm and activation."""

    kind: str | None = "residual"

    def __init__(self, i: int, o: int, s: int, style: Style) -> None:
        super().__init__()
        self.norm, self.act = style.norm(i), style.act()
        self.convs = nn.Sequential(conv(i, o, 3, s), style.norm(o), style.act(), conv(o, o))
        self.project = conv(i, o, 1, s) if i != o or s > 1 else None
        self.add = SPELLINGS[style.add]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.norm(x))
        return self.add(self.convs(y), x if self.project is None else self.project(y))


class TwoPaths(nn.Module):
    """A branch within a branch: two convolutions side by side, joined, and one over both."""

    def __init__(self, i: int, o: int, s: int, style: Style) -> None:
        super().__init__()
        self.a = nn.Sequential(conv(i, o, 3, s), style.norm(o), style.act())
        self.b = nn.Sequential(conv(i, o, 1, s), style.norm(o), style.act())
        self.join = nn.Sequential(conv(2 * o, o, 1), style.norm(o))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.join(torch.cat([self.a(x), self.b(x)], 1))


class Chunked(nn.Module):
    """Half of the channels gate the others."""

    def __init__(self, i: int, o: int, s: int, style: Style) -> None:
        super().__init__()
        self.first, self.last = nn.Sequential(conv(i, 2 * o, 3, s), style.norm(2 * o)), conv(o, o, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.first(x).chunk(2, dim=1)
        return self.last(a * torch.sigmoid(b))


class DenseInside(nn.Module):
    """Features are reused within the branch."""

    def __init__(self, i: int, o: int, s: int, style: Style) -> None:
        super().__init__()
        self.first = nn.Sequential(conv(i, o, 3, s), style.norm(o), style.act())
        self.second = nn.Sequential(conv(o, o), style.norm(o), style.act())
        self.last = conv(2 * o, o, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return self.last(torch.cat([y, self.second(y)], 1))


def branches(i: int, o: int, s: int, style: Style) -> dict[str, Callable[[], nn.Module]]:
    """The insides of blocks, by name."""
    act, norm, wide = style.act, style.norm, 2 * i
    return {
        "basic": lambda: nn.Sequential(conv(i, o, 3, s), norm(o), act(), conv(o, o), norm(o)),
        "bottleneck": lambda: nn.Sequential(
            conv(i, o, 1), norm(o), act(), conv(o, o, 3, s), norm(o), act(), conv(o, o, 1), norm(o)
        ),
        "inverted": lambda: nn.Sequential(
            conv(i, wide, 1),
            norm(wide),
            act(),
            conv(wide, wide, 3, s, wide),
            norm(wide),
            act(),
            conv(wide, o, 1),
            norm(o),
        ),
        "depthwise": lambda: nn.Sequential(conv(i, i, 5, s, i), norm(i), conv(i, wide, 1), act(), conv(wide, o, 1)),
        "two paths": lambda: TwoPaths(i, o, s, style),
        "chunked": lambda: Chunked(i, o, s, style),
        "dense inside": lambda: DenseInside(i, o, s, style),
    }


def shortcut(i: int, o: int, s: int, style: Style, draw: random.Random) -> nn.Module:
    """Nothing where it fits, else a projection, with or without pool and norm."""
    if i == o and s == 1:
        return nn.Identity()
    norm = draw.choice([[], [style.norm(o)]])
    if s > 1 and draw.random() < 0.4:
        return nn.Sequential(nn.AvgPool2d(2), conv(i, o, 1), *norm)
    return nn.Sequential(conv(i, o, 1, s), *norm)


class Inception(nn.Module):
    """Parallel branches and their concat."""

    kind: str | None = "mixed"

    def __init__(self, i: int, o: int, style: Style, draw: random.Random) -> None:
        super().__init__()
        act, norm, part = style.act, style.norm, max(o // 4, 1)
        widths = [part, part, o - 3 * part, part] if o > 3 * part else [1, 1, max(o - 2, 1)]
        makers = [
            lambda n: nn.Sequential(conv(i, n, 1), norm(n), act()),
            lambda n: nn.Sequential(conv(i, n, 1), norm(n), act(), conv(n, n, 3), norm(n), act()),
            lambda n: nn.Sequential(conv(i, n, 1), act(), conv(n, n, 3), act(), conv(n, n, 3), norm(n), act()),
            lambda n: nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(i, n, 1), norm(n), act()),
        ]
        chosen = makers[: len(widths)]
        self.parts = nn.ModuleList(make(n) for make, n in zip(chosen, widths, strict=True))
        self.as_list = draw.random() < 0.5
        self.width = sum(widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = [part(x) for part in self.parts]
        return torch.cat(made if self.as_list else tuple(made), dim=1)


class Reuse(nn.Module):
    """DenseNet: what comes in is handed on beside what is new."""

    kind: str | None = None

    def __init__(self, i: int, style: Style) -> None:
        super().__init__()
        self.new = nn.Sequential(style.norm(i), style.act(), conv(i, 4), style.norm(4), style.act(), conv(4, 4))
        self.width = i + 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.new(x)], 1)


class Reparameterised(nn.Module):
    """RepVGG: parallel convolutions that fold into one."""

    kind: str | None = None

    def __init__(self, i: int, style: Style) -> None:
        super().__init__()
        self.three, self.one = (
            nn.Sequential(conv(i, i), nn.BatchNorm2d(i)),
            nn.Sequential(conv(i, i, 1), nn.BatchNorm2d(i)),
        )
        self.same, self.act = nn.BatchNorm2d(i), style.act()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.three(x) + self.one(x) + self.same(x))


class UShaped(nn.Module):
    """U-Net: down, something, up, and beside what was there before."""

    kind: str | None = None

    def __init__(self, i: int, inner: nn.Module, inner_width: int, style: Style) -> None:
        super().__init__()
        self.down, self.inner = nn.MaxPool2d(2), inner
        self.join = nn.Sequential(conv(i + inner_width, i), style.norm(i), style.act())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.interpolate(self.inner(self.down(x)), size=x.shape[-2:])
        return self.join(torch.cat([x, y], 1))


class Passing(nn.Module):
    """A wrapper as checkpointing has it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) if self.training or x.dim() == 4 else x


class Looping(nn.Module):
    """A stage that runs its blocks itself, and gives them in a tuple or a dict."""

    def __init__(self, blocks: list[nn.Module], *, named: bool) -> None:
        super().__init__()
        self.blocks, self.named = nn.ModuleList(blocks), named

    def forward(self, x: torch.Tensor) -> Any:
        for block in self.blocks:
            x = block(x)
        return {"out": x} if self.named else (x,)


class Grown(nn.Module):
    """A stem, stages and a head."""

    def __init__(self, stem: nn.Module, stages: list[nn.Module], head: list[nn.Module]) -> None:
        super().__init__()
        self.stem, self.stages, self.heads = stem, nn.ModuleList(stages), nn.ModuleList(head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        given: Any
        for stage in self.stages:
            given = stage(x)
            x = given["out"] if isinstance(given, dict) else given[0] if isinstance(given, tuple) else given
        made = [head(x) for head in self.heads]
        return torch.cat(made, 1) if len(made) > 1 else made[0]


def _piece(width: int, draw: random.Random, style: Style, depth: int = 0) -> tuple[nn.Module, int]:
    """Something that keeps the size, and its width."""
    kind = draw.choices(["block", "preact", "inception", "reuse", "rep", "u"], [8, 2, 2, 1, 1, 1 if depth == 0 else 0])[
        0
    ]
    other = draw.choice([width, width, width, 6, 12, 16])
    if kind == "block":
        made = draw.choice(list(branches(width, other, 1, style).values()))()
        after = draw.random() < 0.5
        return Block(made, shortcut(width, other, 1, style, draw), style, other, act_after=after), other
    if kind == "preact":
        return PreActivated(width, other, 1, style), other
    if kind == "inception":
        block = Inception(width, other, style, draw)
        return block, block.width
    if kind == "reuse":
        dense = Reuse(width, style)
        return dense, dense.width
    if kind == "rep":
        return Reparameterised(width, style), width
    inner, inner_width = _piece(width, draw, style, depth + 1)
    return UShaped(width, inner, inner_width, style), width


def _stage(width: int, draw: random.Random, style: Style) -> tuple[nn.Module, int]:
    pieces: list[nn.Module] = []
    if draw.random() < 0.6:
        other = draw.choice([8, 12, 16, 20])
        made = draw.choice(list(branches(width, other, 2, style).values()))()
        pieces.append(Block(made, shortcut(width, other, 2, style, draw), style, other, act_after=True))
        width = other
    for _ in range(draw.randint(1, 3)):
        piece, width = _piece(width, draw, style if draw.random() < 0.7 else Style.drawn(draw))
        pieces.append(Passing(piece) if draw.random() < 0.15 else piece)
    if draw.random() < 0.3:
        return Looping(pieces, named=draw.random() < 0.5), width
    return nn.Sequential(*pieces), width


def grow(seed: int) -> tuple[Grown, list[tuple[str, str]]]:
    """The network of a seed, in train mode, and its sites as (block, kind), sorted."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    style = Style.drawn(draw)
    width = draw.choice([6, 8, 12, 16])
    stem = nn.Sequential(conv(3, width, 3, draw.choice([1, 2])), style.norm(width), style.act())
    stages: list[nn.Module] = []
    for _ in range(draw.randint(1, 3)):
        stage, width = _stage(width, draw, style)
        stages.append(stage)
    pooled: list[nn.Module] = [nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))]
    predictions: list[nn.Module] = [
        nn.Sequential(conv(width, n, 1), nn.Flatten(2), Apply(lambda x: x.mean(2))) for n in (2, 3)
    ]
    model = Grown(stem, stages, draw.choice([pooled, predictions]))
    for module in model.modules():
        if isinstance(getattr(module, "running_mean", None), torch.Tensor):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        if "Norm" in type(module).__name__ and isinstance(getattr(module, "weight", None), nn.Parameter):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    truth = [(name, module.kind) for name, module in model.named_modules() if getattr(module, "kind", None)]
    return model, sorted(truth)


def faults(seed: int) -> Iterator[str]:
    """What is wrong with the network of a seed: its sites, the identity start in both modes, gates without effect."""
    model, truth = grow(seed)
    sites = find_sites(model, input_size=SIZE)
    found = sorted((site.block, site.kind) for site in sites)
    if found != truth:
        reasons = [f"{skip.block} {skip.operation}: {skip.reason}" for skip in sites.skipped]
        yield f"sites {sorted(set(found) - set(truth))} too many, {sorted(set(truth) - set(found))} missing; {reasons}"
        return
    if not truth:
        return
    image = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(seed))
    try:
        same = inject(model, "se", reduction=4, init="identity", input_size=SIZE)
        gated = inject(model, "eca", input_size=SIZE)
    except AttnInjectError as error:
        yield f"{type(error).__name__}: {error}"
        return
    for mode in (True, False):
        given = []
        for net in (model, same, gated):
            torch.manual_seed(0)
            with torch.no_grad():
                given.append(net.train(mode)(image))
        if not torch.equal(given[0], given[1]):
            yield f"train={mode}: the identity start is {float((given[0] - given[1]).abs().max()):g} apart"
        if torch.equal(given[0], given[2]):
            yield f"train={mode}: the gates change nothing"


def main() -> None:
    """Try many seeds, and say which are wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    wrong = 0
    for seed in range(args.first, args.first + args.seeds):
        for fault in faults(seed):
            wrong += 1
            print(f"seed {seed}: {fault}", flush=True)
    print(f"{args.seeds} seeds, {wrong} faults")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
