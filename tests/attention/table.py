"""README's table of the attentions, from their modules and the library's own counters.

    python -m tests.attention.table

writes it into README.md between its two comments. What is added to ResNet-50 is counted before the add of its 16
blocks, at batch 256 in bfloat16; T are the bytes of these blocks' outputs. What `optimize` leaves of it is beyond the
plain network with its norms folded; Triton's kernels, which only a GPU runs, are left out of it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.models.resnet import Bottleneck

from attn_inject import inject, optimize
from attn_inject.attention.catalogue import Entry, catalogue
from attn_inject.attention.registry import build
from attn_inject.cost.counting import count
from attn_inject.optimizing.optimized import fold_norms

README = Path(__file__).parents[2] / "README.md"
START, END = "<!-- attentions: python -m tests.attention.table -->\n", "<!-- /attentions -->\n"
# (blocks, channels, extent) of ResNet-50's stages at 224x224.
BLOCKS = ((3, 256, 56), (4, 512, 28), (6, 1024, 14), (3, 2048, 7))
BATCH = 256
T = sum(blocks * 2 * BATCH * channels * extent**2 for blocks, channels, extent in BLOCKS)


def added(name: str) -> tuple[int, float]:
    """(parameters, traffic in T) that the attention adds to ResNet-50."""
    parameters = traffic = 0
    with torch.device("meta"):
        for blocks, channels, extent in BLOCKS:
            module = build(name, channels)
            parameters += blocks * sum(parameter.numel() for parameter in module.parameters())
            x = torch.empty(BATCH, channels, extent, extent)
            traffic += blocks * count(module, (x,), dtype=torch.bfloat16).total.traffic
    return parameters, traffic / T


def left(name: str) -> float:
    """The traffic in T that is left of it in the optimized network, block by block."""
    traffic = 0
    for blocks, channels, extent in BLOCKS:
        with torch.device("meta"):
            block = Bottleneck(channels, channels // 4).eval()
            x = torch.empty(BATCH, channels, extent, extent)
        patched = inject(block, name, example_inputs=x[:1]).eval()
        fast = optimize(patched, disable=["gate_kernel"])
        with_gate, plain = (
            count(model, (x,), dtype=torch.bfloat16).total.traffic for model in (fast, fold_norms(block))
        )
        traffic += blocks * (with_gate - plain)
    return traffic / T


def table() -> str:
    """The table as Markdown, family by family."""
    lines = [
        "| family | attention | paper | year | parameters | traffic | optimized | `optimize` takes |",
        "|---|---|---|---|---:|---:|---:|---|",
    ]
    family = ""
    for entry in catalogue():
        if entry.name.startswith("timm:"):
            continue
        parameters, traffic = added(entry.name)
        first = entry.family if entry.family != family else ""
        family = entry.family
        cells = (first, f"`{entry.name}`", _paper(entry.paper), str(entry.year), _short(parameters), f"{traffic:.1f} T")
        optimized = f"{left(entry.name):.1f} T" if entry.gate_add else ""
        lines.append(f"| {' | '.join(cells)} | {optimized} | {_rewrites(entry)} |")
    return "\n".join(lines) + "\n"


def _paper(paper: str) -> str:
    on_arxiv = paper.replace(".", "").isdecimal()
    return f"[{paper}](https://arxiv.org/abs/{paper})" if on_arxiv else paper


def _rewrites(entry: Entry) -> str:
    return "pool and add" if entry.early_squeeze else "add" if entry.gate_add else ""


def _short(number: int) -> str:
    return f"{number / 1e6:,.2f} M" if number >= 100_000 else f"{number:,}"


def written(readme: str) -> str:
    """README with the table as it is now."""
    before, rest = readme.split(START)
    after = rest.split(END)[1]
    return f"{before}{START}{table()}{END}{after}"


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
