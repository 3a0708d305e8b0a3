"""attach over both zoos: what `inject` gives, to the bit, in models that keep all that their class can do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from attn_inject import attach, detach, inject, load, save
from attn_inject.surgery.attachment import attached_modules
from attn_inject.zoo.sizes import input_size

from ..by_hand import by_hand, every_other

pytestmark = pytest.mark.zoo

# One or more of every family with sites.
NETWORKS = [
    "resnet18", "resnext50_32x4d", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5",
    "regnet_y_400mf", "efficientnet_b0", "convnext_tiny", "googlenet", "inception_v3",
    "squeezenet1_1", "r3d_18", "mc3_18", "r2plus1d_18", "fcn_resnet50", "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large", "timm:resnet26d", "timm:resnetv2_50", "timm:seresnet18", "timm:skresnet18",
    "timm:ecaresnet26t", "timm:resnest14d", "timm:res2net50_14w_8s", "timm:nf_resnet26", "timm:dm_nfnet_f0",
    "timm:gernet_s", "timm:regnetx_002", "timm:regnetz_b16", "timm:dpn48b", "timm:dla34", "timm:hrnet_w18_small",
    "timm:darknet53", "timm:cspresnet50", "timm:tresnet_m", "timm:rexnet_100", "timm:ghostnet_050",
    "timm:ghostnetv3_050", "timm:mobilenetv2_100", "timm:mobilenetv4_conv_small", "timm:mnasnet_small",
    "timm:fbnetc_100", "timm:mixnet_s", "timm:tinynet_e", "timm:efficientnet_lite0", "timm:hardcorenas_a",
    "timm:xception41", "timm:legacy_xception", "timm:convnextv2_atto", "timm:inception_next_atto",
    "timm:poolformer_s12", "timm:convmixer_768_32", "timm:edgenext_xx_small", "timm:fastvit_t8", "timm:repvit_m1",
    "timm:mobilevit_xxs", "timm:halonet26t", "timm:visformer_tiny", "timm:starnet_s1", "timm:fasternet_t0",
    "timm:inception_v4", "timm:mambaout_femto",
]  # fmt: skip

# By hand: much the same code as another of them, in a network that takes long.
MORE = {
    "mc3_18", "r2plus1d_18", "resnext50_32x4d", "fcn_resnet50", "deeplabv3_mobilenet_v3_large", "timm:ghostnetv3_050",
    "timm:dm_nfnet_f0", "timm:inception_v4", "timm:xception41", "timm:cspresnet50", "timm:darknet53", "timm:tresnet_m",
    "timm:fbnetc_100", "timm:tinynet_e", "timm:hardcorenas_a", "timm:mnasnet_small", "timm:mobilenetv2_100",
    "timm:convnextv2_atto",
}  # fmt: skip
# Loading a file takes as long as attaching anew.
FROM_FILES = NETWORKS[::3]

VIDEOS = ("r3d_18", "mc3_18", "r2plus1d_18")
# Their code adds position tables of one size, or ends in a fixed number of pools.
FIXED = ("timm:halonet26t", "timm:visformer_tiny", "inception_v3", "timm:inception_v4")

FAMILIES = [
    "resnet26d", "resnetv2_50", "seresnet18", "skresnet18", "ecaresnet26t", "resnest14d", "res2net50_14w_8s",
    "nf_resnet26", "gernet_s", "regnetx_002", "regnetz_b16", "dpn48b", "dla34", "hrnet_w18_small", "darknet53",
    "cspresnet50", "tresnet_m", "rexnet_100", "ghostnet_050", "mobilenetv2_100", "mobilenetv3_small_050",
    "mobilenetv4_conv_small", "mixnet_s", "tinynet_e", "xception41", "convnext_atto", "convnextv2_atto",
    "poolformer_s12", "edgenext_xx_small", "fastvit_t8", "repvit_m1", "starnet_s1", "fasternet_t0",
    "inception_next_atto",
]  # fmt: skip


def _model(name: str) -> nn.Module:
    """Random weights, none of which is so small that what it scales could not be seen."""
    torch.manual_seed(0)
    library, _, name = name.rpartition(":")
    build: Any = timm.create_model if library else torchvision.models.get_model
    weights = {} if library else {"weights": None}
    if name.startswith(("fcn", "deeplab", "lraspp")):
        weights["weights_backbone"] = None
    elif name in ("googlenet", "inception_v3") and not library:
        weights["init_weights"] = False  # type: ignore[assignment]
    model: nn.Module = build(name, **weights).eval()
    for parameter in model.parameters():
        if parameter.numel() and parameter.abs().max() < 1e-2:
            nn.init.normal_(parameter)
    return model


def _image(model: nn.Module, name: str, *, any_size: bool) -> torch.Tensor:
    """Two images, small ones where the network takes any."""
    if name in VIDEOS:
        return torch.randn(2, 3, 4, 32, 32)
    size = input_size(model) or (3, 224, 224)
    return (
        torch.randn(2, 3, 64, 64)
        if any_size and min(size[1:]) > 64 and name not in FIXED
        else torch.randn(2, 3, *size[1:])
    )


def _outputs(model: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(3)
    with torch.no_grad():
        given = model(image)
    return [x for x in torch.utils._pytree.tree_leaves(given) if isinstance(x, torch.Tensor)]


def _equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("name", by_hand(NETWORKS, lambda name: name in MORE))
def test_attach_gives_what_inject_gives(name: str, tmp_path: Path) -> None:
    model = _model(name)
    patched, attached = inject(model, "se", min_width=4), attach(model, "se", min_width=4)
    assert type(attached) is type(model)
    assert len(attached_modules(attached)) == len(patched.injection.plan.insertions)
    assert not attached.injection.not_kept
    patched.load_state_dict(attached.state_dict())
    attached.load_state_dict(patched.state_dict())
    image = _image(model, name, any_size=patched.injection.any_size)
    before = _outputs(model.eval(), image)
    ours, theirs = _outputs(attached.eval(), image), _outputs(patched.eval(), image)
    assert _equal(ours, theirs)
    assert not _equal(ours, before)
    twin = copy.deepcopy(attached)
    if name in FROM_FILES:
        save(attached, tmp_path / "net.pt")
        assert _equal(_outputs(load(tmp_path / "net.pt", model).eval(), image), ours)
        # Files do not know which form they came from.
        save(patched, tmp_path / "graph.pt")
        module = load(tmp_path / "graph.pt", model, form="module").eval()
        assert type(module) is type(model)
        assert _equal(_outputs(module, image), ours)
    assert _equal(_outputs(detach(attached), image), before)
    assert type(detach(attached)) is type(model)
    # Both move the statistics that they share.
    copied = copy.deepcopy(patched)
    assert _equal(_outputs(twin.train(), image), _outputs(copied.train(), image))


def _watched(attached: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """(its gates, those that have run since, in their order)."""
    gates = [attached.get_submodule(path) for path in attached_modules(attached)]
    ran: list[nn.Module] = []
    for gate in gates:
        gate.register_forward_hook(lambda module, *_: ran.append(module))
    return gates, ran


@pytest.mark.parametrize("name", every_other(FAMILIES))
def test_what_timms_models_can_do(name: str) -> None:
    model: Any = _model(f"timm:{name}")
    attached: Any = attach(model, "se", min_width=4)
    gates, runs = _watched(attached)
    image = torch.randn(2, 3, 96, 96)

    def all_run(value: Any) -> Any:
        assert set(runs) == set(gates)
        runs.clear()
        return value

    whole = all_run(attached(image))
    features = all_run(attached.forward_features(image))
    assert torch.equal(attached.forward_head(features), whole)
    runs.clear()
    if hasattr(attached, "forward_intermediates"):
        final, maps = attached.forward_intermediates(image)
        assert torch.equal(all_run(final), features)
        assert all(isinstance(each, torch.Tensor) for each in maps)
        runs.clear()
    assert [n for n, _ in attached.get_classifier().named_parameters()] == [
        n for n, _ in model.get_classifier().named_parameters()
    ]
    if hasattr(attached, "group_matcher"):
        from timm.optim._param_groups import param_groups_layer_decay

        groups = param_groups_layer_decay(attached, layer_decay=0.7)
        assert sum(len(group["params"]) for group in groups) == len(list(attached.parameters()))
        scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
        for path, gate in zip(attached_modules(attached), gates, strict=True):
            # What stood in the block before decides at what rate its attention learns.
            home = path.rpartition(".")[0]
            before = [
                attached.get_parameter(f"{home}.{name}") for name, _ in model.get_submodule(home).named_parameters()
            ]
            assert {scales[id(p)] for p in gate.parameters()} <= {scales[id(p)] for p in before}, path
    try:
        attached.set_grad_checkpointing(enable=True)
    except AssertionError:
        with pytest.raises(AssertionError):
            model.set_grad_checkpointing(enable=True)
    else:
        attached.train()
        runs.clear()
        all_run(attached(image))
        attached.set_grad_checkpointing(enable=False)
    attached.reset_classifier(0)
    attached.train()
    runs.clear()
    given = all_run(attached(image))
    given.square().mean().backward()
    assert all(p.grad is not None for p in attached.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", every_other(FAMILIES, first=1))
def test_what_gives_features_only(name: str) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model(name, features_only=True).eval()
    attached: Any = attach(model, "se", min_width=4)
    gates, ran = _watched(attached)
    image = torch.randn(1, 3, 64, 64)
    maps = attached(image)
    assert [each.shape for each in maps] == [each.shape for each in model(image)]
    assert ran == gates
    assert attached.feature_info.channels() == model.feature_info.channels()


@pytest.mark.parametrize("name", every_other(FAMILIES, first=1))
def test_a_model_without_a_classifier(name: str) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model(name, num_classes=0).eval()
    attached: Any = attach(model, "se", min_width=4).eval()
    gates, ran = _watched(attached)
    image = torch.randn(1, 3, 96, 96)
    features = model(image)
    assert features.dim() == 2
    assert attached(image).shape == features.shape
    assert set(ran) == set(gates)
