"""Toy nets of about ten lines, one graph feature each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from attn_inject.attention.gating import ChannelGate


def conv(i: int, o: int, k: int = 3, s: int = 1, d: int = 2) -> nn.Module:
    """A convolution that keeps the size at stride 1, in `d` dimensions."""
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1](i, o, k, s, k // 2)


class Toy(nn.Module):
    """A stem, a body and a head; `size` is one input's (channels, *spatial)."""

    size: tuple[int, ...] = (3, 16, 16)

    def __init__(self, body: nn.Module, width: int = 16, out: int = 16) -> None:
        super().__init__()
        self.stem = conv(3, width)
        self.body = body
        self.head = nn.Linear(out, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(torch.relu(self.stem(x))).flatten(2).mean(2))


class Block(nn.Module):
    """conv-bn-relu-conv-bn, an optional projection, and an add that is spelled by `add`."""

    def __init__(
        self, add: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], i: int = 16, o: int = 16, s: int = 1
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(i, o, s=s), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = conv(o, o), nn.BatchNorm2d(o)
        self.project = nn.Sequential(conv(i, o, 1, s), nn.BatchNorm2d(o)) if i != o or s > 1 else nn.Identity()
        self.add = add

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(self.add(out, self.project(x)))


def _iadd(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a += b
    return a


def _add_as_statement(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a.add_(b)
    return a


SPELLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "+": lambda a, b: a + b,
    "+ swapped": lambda a, b: b + a,
    "+=": _iadd,
    "torch.add": torch.add,
    "torch.add alpha": lambda a, b: torch.add(b, a, alpha=0.5),
    "torch.add keywords": lambda a, b: torch.add(input=a, other=b),
    ".add": lambda a, b: a.add(b),
    ".add_": lambda a, b: a.add_(b),
    ".add_ as a statement": _add_as_statement,
    "sum": lambda a, b: sum((a, b)),  # type: ignore[dict-item, return-value]
    "stack, then sum": lambda a, b: torch.stack([b, a]).sum(0),
    "stack behind, then mean": lambda a, b: torch.mean(torch.stack((a, b), -1), dim=-1),
    "torch.addcmul": lambda a, b: torch.addcmul(b, torch.tensor(0.5), a),
    ".addcmul_": lambda a, b: b.clone().addcmul_(tensor1=a, tensor2=torch.ones(a.shape[1], 1, 1), value=2),
}


class Quantizable(Block):
    """The add of torchvision's quantizable models."""

    def __init__(self) -> None:
        super().__init__(torch.add)
        self.skip_add = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.skip_add.add(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))), x))


class Lambda(nn.Module):
    """Layers by name and a forward over them, for nets too small for a class."""

    def __init__(self, forward: Callable[[Lambda, torch.Tensor], torch.Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(self, x)


def preactivation() -> nn.Module:
    """ResNetV2: the shortcut projects the activated input."""

    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(m.bn(x))
        return m.project(y) + m.b(torch.relu(m.a(y)))

    return Toy(Lambda(run, bn=nn.BatchNorm2d(16), project=conv(16, 24, 1), a=conv(16, 24), b=conv(24, 24)), out=24)


def own_preactivation() -> nn.Module:
    """DPN: shortcut and branch each activate their input themselves."""

    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        return m.project(torch.relu(m.bn1(x))) + m.b(torch.relu(m.a(torch.relu(m.bn2(x)))))

    norms = {"bn1": nn.BatchNorm2d(16), "bn2": nn.BatchNorm2d(16)}
    return Toy(Lambda(run, project=conv(16, 16, 1), a=conv(16, 16), b=conv(16, 16), **norms))


def layer_scale() -> nn.Module:
    """The gate goes before the learned scale, a scalar gain and dropout."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.gamma = conv(16, 16), conv(16, 16), nn.Parameter(torch.full((16, 1, 1), 0.1))
            self.drop = nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0.2 * self.drop(self.gamma * self.b(F.gelu(self.a(x))))

    return Toy(Scaled())


def partial_add() -> nn.Module:
    """RexNet: the shortcut is added to the first channels only; the gate goes before the split."""

    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        y = m.b(torch.relu(m.a(x)))
        return torch.cat([y[:, :16] + x, y[:, 16:]], dim=1)

    return Toy(Lambda(run, a=conv(16, 16), b=conv(16, 24)), out=24)


def partial_add_in_place() -> nn.Module:
    """The same, written as `y[:, :16] += x`."""

    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        y = m.b(torch.relu(m.a(x)))
        y[:, :16] += x
        return y

    return Toy(Lambda(run, a=conv(16, 16), b=conv(16, 24)), out=24)


def channels_last() -> nn.Module:
    """ConvNeXt's block with its linear layers at the end, added as (N, H, W, C)."""

    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        y = m.dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return (x + m.fc2(F.gelu(m.fc1(m.norm(y))))).permute(0, 3, 1, 2)

    return Toy(Lambda(run, dw=conv(16, 16, 7), norm=nn.LayerNorm(16), fc1=nn.Linear(16, 64), fc2=nn.Linear(64, 16)))


def shared_block() -> nn.Module:
    """One block, run twice."""

    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        return m.block(m.block(x))

    return Toy(Lambda(run, block=Block(SPELLINGS["+"])))


def inception() -> nn.Module:
    """Four parallel branches; one of them ends in a concat of its own."""

    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        b = torch.relu(m.b(x))
        inner = torch.cat([torch.relu(m.b1(b)), torch.relu(m.b2(b))], 1)
        return torch.cat([torch.relu(m.a(x)), inner, F.max_pool2d(x, 3, 1, 1)], 1)

    return Toy(Lambda(run, a=conv(16, 8, 1), b=conv(16, 8, 1), b1=conv(8, 4), b2=conv(8, 4)), out=32)


def _plain(run: Callable[[Lambda, torch.Tensor], torch.Tensor], out: int = 16, **layers: nn.Module) -> nn.Module:
    return Toy(Lambda(run, **layers), out=out)


def _fusion(m: Lambda, x: torch.Tensor) -> torch.Tensor:
    return torch.relu(m.b(torch.relu(m.a(x)))) + torch.relu(m.d(torch.relu(m.c(x))))


def _reparameterised(m: Lambda, x: torch.Tensor) -> torch.Tensor:
    return torch.relu(m.a(x) + m.b(x) + m.bn(x))


def _split_scale(m: Lambda, x: torch.Tensor) -> torch.Tensor:
    first, second = torch.chunk(m.a(x), 2, 1)
    y = torch.relu(m.b(first))
    return torch.cat([y, m.c(second + y)], 1)


def _pyramid(m: Lambda, x: torch.Tensor) -> torch.Tensor:
    coarse = torch.relu(m.b(torch.relu(m.a(x))))
    return m.lateral(x) + F.interpolate(coarse, scale_factor=2.0)


def _dense(m: Lambda, x: torch.Tensor) -> torch.Tensor:
    x = torch.cat([x, torch.relu(m.a(x))], 1)
    return torch.cat([x, torch.relu(m.b(x))], 1)


def _one_shot(m: Lambda, x: torch.Tensor) -> torch.Tensor:
    y = torch.relu(m.a(x))
    z = torch.relu(m.b(y))
    return torch.relu(m.c(torch.cat([x, y, z], 1)))


def _split_concat(m: Lambda, x: torch.Tensor) -> torch.Tensor:
    first, second = torch.split(x, [8, 8], 1)
    return torch.cat([torch.relu(m.a(first)), torch.relu(m.b(second))], 1)


def _cross_stage(m: Lambda, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([m.b(x), m.block(m.a(x))], 1)


def _cell(m: Lambda, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([m.a(torch.relu(x)) + x, m.b(torch.relu(x)) + m.c(torch.relu(x)), m.d(torch.relu(m.e(x))) + x], 1)


def _context(m: Lambda, x: torch.Tensor) -> torch.Tensor:
    return x + m.b(torch.relu(m.a(x.mean((2, 3), keepdim=True))))


def _tokens(m: Lambda, x: torch.Tensor) -> torch.Tensor:
    t = m.a(x).flatten(2).transpose(1, 2)
    local = m.b(t.transpose(1, 2).unflatten(2, (16, 16))).flatten(2).transpose(1, 2)
    return (t + m.fc(F.gelu(local))).transpose(1, 2).unflatten(2, (16, 16))


class Position(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.position = conv(3, 16), nn.Parameter(torch.zeros(1, 16, 16, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.stem(x) + self.position).mean((2, 3)))


# Look-alikes that must be refused: a word of the reason -> the net. The pyramid and the cross-stage concat have sites
# elsewhere only if their parts do.
REFUSED: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "fusion": ("a fusion", lambda: _plain(_fusion, a=conv(16, 16), b=conv(16, 16), c=conv(16, 16), d=conv(16, 16))),
    "re-parameterised": (
        "re-parameterised",
        lambda: _plain(_reparameterised, a=conv(16, 16), b=conv(16, 16, 1), bn=nn.BatchNorm2d(16)),
    ),
    "position embedding": ("a parameter or a constant", Position),
    "split scale": ("split-scale", lambda: _plain(_split_scale, out=16, a=conv(16, 16, 1), b=conv(8, 8), c=conv(8, 8))),
    "pyramid": (
        "multi-resolution",
        lambda: _plain(_pyramid, lateral=conv(16, 16, 1), a=conv(16, 16, s=2), b=conv(16, 16)),
    ),
    "feature reuse": ("feature reuse", lambda: _plain(_dense, out=48, a=conv(16, 16), b=conv(32, 16))),
    "one-shot aggregation": (
        "feature reuse",
        lambda: _plain(_one_shot, a=conv(16, 16), b=conv(16, 16), c=conv(48, 16, 1)),
    ),
    "split concat": ("different slices of one split", lambda: _plain(_split_concat, a=conv(8, 8), b=conv(8, 8, 5))),
    "cell": ("cell combination", lambda: _plain(_cell, out=48, **{n: conv(16, 16) for n in "abcde"})),
    "broadcast": ("a broadcast value", lambda: _plain(_context, a=conv(16, 4, 1), b=conv(4, 16, 1))),
    "token sequence": (
        "token sequences",
        lambda: _plain(_tokens, a=conv(16, 16), b=conv(16, 16), fc=nn.Linear(16, 16)),
    ),
    "different ranks": (
        "different ranks",
        lambda: _plain(lambda m, x: x + torch.relu(m.a(x)).mean((0,)), a=conv(16, 16)),
    ),
    "to itself": ("to itself", lambda: _plain(lambda m, x: (y := torch.relu(m.a(x))) + y, a=conv(16, 16))),
    "no convolution": ("no convolution", lambda: _plain(lambda m, x: x + torch.tanh(m.bn(x)), bn=nn.BatchNorm2d(16))),
}


def cross_stage() -> nn.Module:
    """CSP: the concat's part holds a residual block of its own."""
    return _plain(_cross_stage, out=32, a=conv(16, 16, 1), b=conv(16, 16, 1), block=Block(SPELLINGS["+"]))


def unpacked_parts() -> nn.Module:
    """YOLO's C2f: the parts of a chunk in a list that grows, every part of a split taken by iteration."""

    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        parts = list(m.a(x).chunk(2, dim=1))
        parts.append(parts[-1] + m.c(torch.relu(m.b(parts[-1]))))
        joined = m.d(torch.cat(parts, 1))
        first, *rest = torch.split(joined, [4, 4, 8], dim=1)
        assert len(joined.chunk(4, 1)) == 4
        return torch.cat([first, *rest], 1)

    return Toy(Lambda(run, a=conv(16, 16, 1), b=conv(8, 8), c=conv(8, 8), d=conv(24, 16, 1)))


class Residual(nn.Module):
    """x + branch(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


def gates_run(model: nn.Module, *inputs: Any, gradients: bool = False) -> int:
    """How often the channel gates of a patched model run in one pass."""
    ran: list[nn.Module] = []
    handles = [
        module.register_forward_hook(lambda gate, *_: ran.append(gate))
        for module in model.modules()
        if isinstance(module, ChannelGate)
    ]
    with torch.set_grad_enabled(gradients):
        model(*inputs)
    for handle in handles:
        handle.remove()
    return len(ran)
