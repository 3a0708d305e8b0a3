"""Squeeze-and-Excitation as torchvision and MONAI have it: equal outputs with their weights.

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
