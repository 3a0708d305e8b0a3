"""Squeeze-and-Excitation as torchvision and MONAI have it, CBAM as ultralytics has: equal outputs with their weights.

What timm and segmentation_models_pytorch have is held against ours beside each attention's own equations.
"""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from attn_inject.attention.registry import build

from .written import TIGHT, apart


@pytest.mark.parametrize(("gate", "activation"), [("sigmoid", nn.Sigmoid), ("hardsigmoid", nn.Hardsigmoid)])
def test_se_is_torchvisions(gate: str, activation: type[nn.Module]) -> None:
    theirs = torchvision.ops.SqueezeExcitation(64, 16, scale_activation=activation).double()
    ours = build("se", 64, options={"form": "conv", "bias": True, "reduction": 4, "gate": gate}).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 64, 7, 5, dtype=torch.float64)
    assert apart(ours(x), theirs(x)) <= TIGHT


@pytest.mark.wild
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_se_is_monais(ndim: int) -> None:
    """MONAI has r = 2, and biases."""
    blocks = pytest.importorskip("monai.networks.blocks.squeeze_and_excitation")
    theirs = blocks.ChannelSELayer(ndim, 64).double()
    ours = build("se", 64, ndim=ndim, options={"bias": True, "reduction": 2}).double()
    names = {"fc.0": "fc1", "fc.2": "fc2"}
    ours.load_state_dict({names[key.rpartition(".")[0]] + key[4:]: value for key, value in theirs.state_dict().items()})
    x = torch.randn(2, 64, *[5, 4, 3][:ndim], dtype=torch.float64)
    assert apart(ours(x), theirs(x)) <= TIGHT


@pytest.mark.wild
def test_ultralytics_cbam_has_its_spatial_half_and_another_channel_gate() -> None:
    """Of the paper's equation 2, sigma(MLP(avg F) + MLP(max F)), it has one layer over the average: SE-Var3's."""
    theirs = pytest.importorskip("ultralytics.nn.modules.conv").CBAM(64).double()
    x = torch.randn(2, 64, 7, 5, dtype=torch.float64)
    channel = build("se-var3", 64).double()
    with torch.no_grad():
        theirs.channel_attention.fc.bias.zero_()
        channel.fc.weight.copy_(theirs.channel_attention.fc.weight.flatten(1))
    assert apart(channel(x), theirs.channel_attention(x)) <= TIGHT
    ours = build("cbam", 64, options={"bias": False, "norm": False}).double()
    with torch.no_grad():
        # A channel gate of a half everywhere. The authors' code has the maximum first.
        ours.channel.fc2.weight.zero_()
        ours.conv.weight.copy_(theirs.spatial_attention.cv1.weight.flip(1))
    assert apart(ours(x), theirs.spatial_attention(x / 2)) <= TIGHT
