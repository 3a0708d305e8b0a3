"""Identity-initialised SE at all sites of every family: eval outputs equal to the bit, each gate run once."""

from __future__ import annotations

from collections import Counter

import pytest
import timm
import torch
import torchvision
from torch import nn

from attn_inject import inject

pytestmark = pytest.mark.zoo

TORCHVISION = (
    "resnet18", "resnext50_32x4d", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "efficientnet_v2_s",
    "regnet_x_400mf", "regnet_y_400mf", "convnext_tiny", "mnasnet0_5", "squeezenet1_1", "googlenet", "inception_v3",
)  # fmt: skip
TIMM = (
    "resnet26d", "resnetv2_50", "res2net50_26w_4s", "skresnet18", "resnest14d", "seresnet50", "ecaresnet26t",
    "hrnet_w18_small", "dpn48b", "rexnet_100", "nf_regnet_b0", "dm_nfnet_f0", "legacy_xception", "xception41p",
    "inception_resnet_v2", "ghostnet_050", "ghostnetv2_100", "dla34", "dla46_c", "cspresnet50", "cs3darknet_s",
    "tresnet_m", "convmixer_768_32", "ese_vovnet39b", "mambaout_femto", "convnext_atto", "edgenext_xx_small",
    "mobilevit_xxs", "coatnet_nano_rw_224", "efficientformerv2_s0", "fastvit_t8", "repvit_m0_9", "starnet_s1",
    "efficientvit_b0", "fbnetv3_b", "tinynet_e", "lcnetv2_base", "mobilenetv4_conv_small", "gernet_s", "hgnetv2_b0",
)  # fmt: skip


def _build(name: str) -> nn.Module:
    library, _, plain = name.partition(":")
    torch.manual_seed(0)
    if library == "timm":
        model = timm.create_model(plain)
    else:
        extra = {"init_weights": False} if plain in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model(plain, weights=None, **extra)
    # Zero-initialised last norms would hide a gate in the wrong place.
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)) and module.weight is not None:
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
    return model.eval()


@pytest.mark.parametrize("name", [*(f"torchvision:{n}" for n in TORCHVISION), *(f"timm:{n}" for n in TIMM)])
def test_identity_start_changes_nothing(name: str) -> None:
    model = _build(name)
    config = getattr(model, "default_cfg", None) or {}
    extent = max(config.get("input_size", (3, 224, 224))[1], 299 if "inception_v3" in name else 0)
    patched = inject(model, "se", init="identity", min_width=1, input_size=(3, extent, extent))
    runs: Counter[str] = Counter()
    for insertion in patched.injection.plan.insertions:
        module = patched.get_submodule(insertion.module)
        module.register_forward_hook(lambda *_, path=insertion.module: runs.update([path]))
    x = torch.randn(1, 3, extent, extent, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(patched(x), model(x))
    assert runs == Counter({i.module: i.site.calls for i in patched.injection.plan.insertions})
