"""A small patched network for the file tests, with a source that any process can build."""

from __future__ import annotations

import torch

from attn_inject import InjectedModule, inject
from attn_inject.zoo import build, parse_source

SIZE = (3, 32, 32)


def patched(text: str = "cifar:resnet20", attention: str = "eca", seed: int = 3, **options: object) -> InjectedModule:
    """`attention` in a seeded random network, in eval mode."""
    source = parse_source(text, seed=seed)
    torch.manual_seed(seed)
    return inject(build(source), attention, source=source, input_size=options.pop("input_size", SIZE), **options).eval()
