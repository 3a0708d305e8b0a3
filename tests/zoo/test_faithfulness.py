"""Patched networks of every family train and infer as the originals do: identity start, seeded, to the bit, each gate
running as often as its block.

Eval outputs are equal; in three train steps with dropout and drop path on, outputs are equal to the bit, gradients of
the original parameters within `surgery.GRADIENT`, and the statistics of the norms equal.
"""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from attn_inject import inject

from ..before_after import check_surgery
from ..by_hand import by_hand

pytestmark = pytest.mark.zoo

TORCHVISION = (
    "resnet18", "resnext50_32x4d", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large",
    "efficientnet_b0", "efficientnet_v2_s", "regnet_x_400mf", "regnet_y_400mf", "convnext_tiny", "mnasnet0_5",
    "squeezenet1_1", "googlenet", "inception_v3",
)  # fmt: skip
TIMM = (
    "resnet18", "resnet26d", "resnetv2_18", "resnetv2_50", "res2net50_14w_8s", "res2net50_26w_4s", "skresnet18",
    "resnest14d", "seresnet50", "ecaresnet26t", "resnext26ts", "gcresnext26ts", "hrnet_w18_small", "dpn48b",
    "dpn68", "rexnet_100", "nf_regnet_b0", "dm_nfnet_f0", "legacy_xception", "xception41", "xception41p",
    "inception_resnet_v2", "ghostnet_050", "ghostnetv2_100", "dla34", "dla46_c", "dla60_res2net", "cspresnet50",
    "cspdarknet53", "cs3darknet_s", "tresnet_m", "convmixer_768_32", "ese_vovnet39b", "mambaout_femto",
    "convnext_atto", "convnextv2_atto", "edgenext_xx_small", "mobilevit_xxs", "coatnet_nano_rw_224",
    "efficientformerv2_s0", "fastvit_t8", "repvit_m0_9", "starnet_s1", "efficientvit_b0", "fbnetv3_b", "tinynet_c",
    "tinynet_e", "lcnetv2_base", "mobilenetv4_conv_small", "mobilenetv3_small_075", "gernet_s", "hgnetv2_b0",
    "regnetz_b16", "regnety_002", "repghostnet_050", "mixnet_s", "mnasnet_050", "selecsls42b",
    "inception_next_atto", "efficientnet_lite0",
)  # fmt: skip
# By hand: much the same code as another of them.
MORE = {
    "torchvision:efficientnet_v2_s", "timm:resnetv2_18", "timm:res2net50_26w_4s", "timm:dpn68", "timm:xception41p",
    "timm:dla60_res2net", "timm:cspdarknet53", "timm:inception_resnet_v2", "timm:mobilenetv3_small_075",
}  # fmt: skip
NETWORKS = [*(f"torchvision:{name}" for name in TORCHVISION), *(f"timm:{name}" for name in TIMM)]
# Cannot take two images of 64 pixels in train mode: their auxiliary heads or last stages want more.
LARGER = {
    "googlenet": 224,
    "inception_v3": 299,
    "inception_resnet_v2": 128,
    "legacy_xception": 128,
}
# Their constructors fix the input size.
FIXED = ("coatnet_nano_rw_224", "efficientformerv2_s0")
# Networks without a residual or mixed site are gated by resolution.
STAGES = ("selecsls42b",)


def _build(name: str) -> nn.Module:
    library, _, plain = name.partition(":")
    torch.manual_seed(0)
    if library == "torchvision":
        extra = {"init_weights": False} if plain in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model(plain, weights=None, **extra)
    else:
        try:
            model = timm.create_model(plain, drop_rate=0.2, drop_path_rate=0.2)
        except TypeError:
            model = timm.create_model(plain, drop_rate=0.2)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)) and module.weight is not None:
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
    return model


@pytest.mark.parametrize("name", by_hand(NETWORKS, lambda name: name in MORE))
def test_identity_start_trains_as_the_original(name: str) -> None:
    model = _build(name)
    plain = name.partition(":")[2]
    extent = LARGER.get(plain, 224 if plain in FIXED else 64)
    kinds = ("stage",) if plain in STAGES else ("residual", "mixed")
    patched = inject(model, "se", init="identity", min_width=1, kinds=kinds, input_size=(3, extent, extent))
    x = torch.randn(2, 3, extent, extent, generator=torch.Generator().manual_seed(2))
    check_surgery(model, patched, inputs=(x,), same_output=True)
