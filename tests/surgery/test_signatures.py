"""Blocks with all kinds of arguments, called in all kinds of ways: generated, each from a seed."""

from __future__ import annotations

import linecache
import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import attach, inject

# By the kind of an argument: its default, what the block does with it, and how it may be given.
KINDS = {
    "tensor": ("None", "x if {0} is None else x * {0}", ("y.mean()", "y.mean((2, 3), keepdim=True)")),
    "number": ("1.0", "x * {0}", ("2.5", "3", "x.shape[2]", "int(x.shape[3])", "x.shape[2] / 16")),
    "size": ("None", "x if {0} is None else F.interpolate(x, size={0})", ("x.shape[2:]", "(x.shape[2], x.shape[3])")),
    "sides": ("None", "x if {0} is None else F.interpolate(x, size={0})", ("[int(x.shape[2]), x.shape[3]]",)),
    "text": ("'a'", "x + 1 if {0} == 'a' else x", ("'a'", "'b'")),
    "flag": ("False", "x * 3 if {0} else x", ("True", "False")),
}
SOURCE = """
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x, {parameters}):
        {body}
        return x + self.conv2(self.norm(self.conv1(x)).relu()){end}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 3, 2, 1), Block(), nn.Linear(8, 3)

    def forward(self, x):
        y = self.stem(x)
        {calls}
        return self.head(y.mean((2, 3)))
"""


@dataclass
class Argument:
    name: str
    kind: str
    is_optional: bool
    by_name_alone: bool
    given: str = ""

    def declared(self) -> str:
        return f"{self.name}={KINDS[self.kind][0]}" if self.is_optional else self.name


def source(seed: int) -> str:
    draw = random.Random(seed)
    count = draw.randint(1, 4)
    required, by_name = draw.randint(0, count), draw.randint(0, count // 2)
    arguments = [Argument(f"p{i}", draw.choice(list(KINDS)), i >= required, i >= count - by_name) for i in range(count)]
    declared = [argument.declared() for argument in arguments]
    if by_name:
        declared.insert(count - by_name, "*")
    by_position = True
    for argument in arguments:
        if argument.is_optional and draw.random() < 0.4:
            by_position = False
            continue
        by_position = by_position and not argument.by_name_alone and draw.random() < 0.7
        argument.given = "by position" if by_position else "by name"
    chosen = {argument.name: draw.choice(KINDS[argument.kind][2]) for argument in arguments}
    calls = []
    for _ in range(draw.randint(1, 2)):
        # Numbers may be others in another call; a graph holds for one text and one flag.
        values = {a.name: draw.choice(KINDS["number"][2]) if a.kind == "number" else chosen[a.name] for a in arguments}
        given = [
            values[a.name] if a.given == "by position" else f"{a.name}={values[a.name]}" for a in arguments if a.given
        ]
        calls.append(f"y = self.block({', '.join(['y', *given])})")
    return SOURCE.format(
        parameters=", ".join(declared),
        body="\n        ".join(f"x = {KINDS[a.kind][1].format(a.name)}" for a in arguments),
        calls="\n        ".join(calls),
        # With a function last, no module gives what is gated, and the forward is rewritten.
        end=draw.choice(["", ".relu()", ".relu()"]),
    )


def model_of(seed: int) -> nn.Module:
    text, file = source(seed), f"<signature {seed}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    made: dict[str, Any] = {"nn": nn, "F": nn.functional, "__name__": __name__}
    exec(compile(text, file, "exec"), made)
    torch.manual_seed(seed)
    model: nn.Module = made["Net"]()
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_a_block_is_called_as_it_was(seed: int) -> None:
    model = model_of(seed)
    example = torch.randn(2, 3, 16, 16)
    for patched in (
        attach(model, "eca", init="identity", example_inputs=(example,)),
        attach(model, "eca", init="identity", scope="block"),
        inject(model, "eca", init="identity", scope="block"),
    ):
        for side in (16, 24, 32):
            image = torch.randn(1, 3, side, side)
            torch.testing.assert_close(patched.eval()(image), model(image), rtol=0, atol=0, msg=source(seed))
