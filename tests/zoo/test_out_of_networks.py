"""The catalogue out of five networks through torch.compile, torch.export and ONNX, with batch and image size open.

What takes the time is the network, so that each of its sites has another attention. Three of different families are in
all five networks and every other one in one of them; `pytest -m bench tests/zoo/test_out_of_networks.py` puts every
attention into all five, by hand, since that takes four times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from attn_inject.attention.catalogue import NOT_EXPORTED
from attn_inject.planning.choices import Choices
from attn_inject.planning.plan import plan_for
from attn_inject.surgery.apply import apply_to

from .test_attentions import NAMES, NETWORKS, located_network, must_be_close, run_by_onnxruntime

# Strides leave one frame of a shorter clip, which torch.export takes for another case.
SIZES = {**NETWORKS, "torchvision:r3d_18": (3, 9, 24, 24)}
# How many sites a network has.
SITES = dict(zip(NETWORKS, (8, 6, 12, 8, 11), strict=True))
EVERYWHERE = ("se", "cbam", "gc")
EXPORTED = [name for name in NAMES if name not in NOT_EXPORTED]


def _shared_out() -> Iterator[tuple[str, tuple[str, ...]]]:
    """(network, attentions): three in all, and each of the others in one."""
    others = iter([name for name in EXPORTED if name not in EVERYWHERE])
    for network, room in SITES.items():
        yield network, (*EVERYWHERE, *islice(others, room - len(EVERYWHERE)))


def _all_in_all() -> Iterator[tuple[str, tuple[str, ...]]]:
    for network, room in SITES.items():
        for start in range(0, len(EXPORTED), room):
            yield network, tuple(EXPORTED[start : start + room])


def _attended(network: str, names: tuple[str, ...]) -> nn.Module:
    """The network with one attention a site, in their order, which all do something."""
    located = located_network(network)
    blocks = [insertion.site.block for insertion in plan_for(located, Choices(attention="se")).insertions]
    assert len(blocks) == SITES[network] >= len(names)
    plans = [
        plan_for(located, Choices(attention=name, include=block)) for name, block in zip(names, blocks, strict=False)
    ]
    together = replace(plans[0], insertions=tuple(insertion for plan in plans for insertion in plan.insertions))
    assert [insertion.attention for insertion in together.insertions] == list(names)
    torch.manual_seed(0)
    patched = apply_to(located, together).eval()
    with torch.no_grad():
        for insertion in together.insertions:
            for parameter in patched.get_submodule(insertion.module).parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)
    return patched


def _must_come_out(network: str, names: tuple[str, ...], path: Path) -> None:
    patched = _attended(network, names)
    x = torch.randn(2, *SIZES[network])
    other = torch.randn(3, 3, *(extent + 2 * axis - 1 for axis, extent in enumerate(x.shape[2:], 1)))
    open_axes = {axis: torch.export.Dim.DYNAMIC for axis in range(x.dim()) if axis != 1}
    with torch.no_grad():
        expected = patched(other)
        assert not torch.equal(expected, located_network(network).model(other))
        torch._dynamo.reset()
        compiled = torch.compile(patched, fullgraph=True, backend="eager", dynamic=True)
        must_be_close(compiled(x), patched(x))
        must_be_close(compiled(other), expected)
        program = torch.export.export(patched, (x,), dynamic_shapes=(open_axes,))
        must_be_close(program.module()(other), expected)
        must_be_close(run_by_onnxruntime(program, other, path / "m.onnx"), expected)


def test_every_attention_is_shared_out() -> None:
    shared = [name for _, names in _shared_out() for name in names]
    assert sorted({*shared}) == sorted(EXPORTED)
    assert {(network, name) for network, names in _all_in_all() for name in names} == {
        (network, name) for network in NETWORKS for name in EXPORTED
    }


@pytest.mark.zoo
@pytest.mark.parametrize(("network", "names"), [*_shared_out()], ids=NETWORKS)
def test_out_of_a_network(network: str, names: tuple[str, ...], tmp_path: Path) -> None:
    _must_come_out(network, names, tmp_path)


@pytest.mark.bench
@pytest.mark.parametrize(
    ("network", "names"), [*_all_in_all()], ids=lambda each: "+".join(each) if isinstance(each, tuple) else each
)
def test_every_attention_out_of_every_network(network: str, names: tuple[str, ...], tmp_path: Path) -> None:
    _must_come_out(network, names, tmp_path)
