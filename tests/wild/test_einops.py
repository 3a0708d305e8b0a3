"""Blocks whose branch is rearranged by einops, as functions and as a layer: the channel axis is followed through."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from attn_inject import find_sites

from ..sites.graphs import Net, same_at_identity
from ..toys import conv

pytestmark = pytest.mark.wild

SHUFFLE = "b (g c) h w -> b (c g) h w"
THERE = {"channels last": "b c h w -> b h w c", "tokens": "b c h w -> b (h w) c"}


def _rearranged(way: str) -> Callable[[Net, Tensor], Tensor]:
    rearrange = pytest.importorskip("einops").rearrange
    if way == "shuffle":
        return lambda _, y: rearrange(y, SHUFFLE, g=4)
    if way == "layer":
        return lambda m, y: m.layer(y)
    back = " -> ".join(THERE[way].split(" -> ")[::-1])
    height = {"h": 16} if way == "tokens" else {}
    return lambda _, y: rearrange(rearrange(y, THERE[way]), back, **height)


@pytest.mark.parametrize("way", ["shuffle", "layer", *THERE])
def test_a_branch_is_followed_through_it(way: str) -> None:
    rearranged = _rearranged(way)
    torch.manual_seed(0)
    layers = {"a": conv(16, 16), "b": conv(16, 16), "end": conv(16, 16)}
    layer: nn.Module = pytest.importorskip("einops.layers.torch").Rearrange(SHUFFLE, g=4)
    net = Net(lambda m, x: m.end(x + rearranged(m, m.b(torch.relu(m.a(x))))), **layers, layer=layer)
    sites = find_sites(net, input_size=(16, 16, 16))
    assert [(site.kind, site.channels, site.layout) for site in sites] == [("residual", 16, "channels_first")]
    assert sites.skipped == ()
    same_at_identity(net, (16, 16, 16))
