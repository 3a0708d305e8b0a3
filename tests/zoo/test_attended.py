"""Channel attention that timm's networks have already: found by structure where a module of timm's SE family stands."""

from __future__ import annotations

import pytest
import timm
import torch

from attn_inject import find_sites

pytestmark = pytest.mark.zoo

# The oracle knows timm's own names; the rules do not.
CHANNEL_GATES = {
    "SEModule", "SqueezeExcite", "EffectiveSEModule", "ESEModule", "EseModule", "EcaModule", "CecaModule",
    "SqueezeAndExcite", "GlobalContext",
}  # fmt: skip
# One network of each family that has them, or has what could be taken for them: response norms, layer scales,
# gated linear units, selective and split kernels, spatial gates.
NETWORKS = (
    "coatnet_nano_rw_224", "convnext_tiny", "convnextv2_atto", "cs3se_edgenet_x", "csatv2", "davit_tiny",
    "dm_nfnet_f0", "eca_nfnet_l0", "eca_resnext26ts", "eca_vovnet39b", "ecaresnet26t", "ecaresnet50d",
    "efficientformerv2_s0", "efficientnet_b0", "ese_vovnet39b", "fastvit_t8", "fbnetv3_b", "focalnet_tiny_srf",
    "gc_efficientnetv2_rw_t", "gcvit_xxtiny", "gernet_s", "ghostnetv2_100", "haloregnetz_b", "hardcorenas_a",
    "hgnet_tiny", "lcnet_050", "legacy_senet154", "mambaout_femto", "maxvit_tiny_rw_224", "mixnet_s", "mnasnet_small",
    "mobilenetv3_large_100", "mobileone_s4", "nf_seresnet26", "nextvit_small", "rdnet_tiny", "regnety_002",
    "repvit_m0_9", "resnest50d", "resnetrs50", "rexnet_100", "sehalonet33ts", "semnasnet_100", "seresnet50",
    "seresnextaa101d_32x8d", "skresnet18", "starnet_s1", "tinynet_a", "tresnet_m", "xception41",
)  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_sites_of_attention_are_the_modules_that_gate(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    expected = {path for path, module in model.named_modules() if type(module).__name__ in CHANNEL_GATES}
    assert {site.block for site in find_sites(model, kinds=("attention",))} == expected
