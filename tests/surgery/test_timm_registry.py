"""A patched network by a name of timm's: built, fed with weights, and given to timm's helpers as any of its own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import safe_model_name
from torch import nn

from attn_inject import (
    CheckpointError,
    attach,
    load,
    register_timm_model,
    save,
)

from ..before_after import every_gate_runs

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_it_is_what_attach_gives() -> None:
    name = register_timm_model("test_resnet", "se", reduction=4)
    assert name == "test_resnet_with_se"
    assert timm.is_model(name)
    torch.manual_seed(0)
    ours = timm.create_model(name, num_classes=7).eval()
    torch.manual_seed(0)
    plain = timm.create_model("test_resnet", num_classes=7)
    theirs = attach(plain, "se", reduction=4).eval()
    assert type(ours) is type(plain)
    assert ours.pretrained_cfg == plain.pretrained_cfg
    (given,) = every_gate_runs(ours, IMAGE)
    assert torch.equal(given, theirs(IMAGE))
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_names_are_words_and_say_the_options() -> None:
    assert register_timm_model("timm:test_resnet", "se:reduction=8") == "test_resnet_with_se_reduction_8"
    assert register_timm_model("test_resnet.r160_in1k", "timm:cbam") == "test_resnet_with_timm_cbam"
    pointwise = partial(nn.Conv2d, kernel_size=1)
    assert register_timm_model("test_resnet", lambda width: pointwise(width, width), name="mine") == "mine"
    ours, plain = (
        sum(isinstance(module, nn.Conv2d) for module in timm.create_model(each).modules())
        for each in ("mine", "test_resnet")
    )
    assert ours - plain == 4


def test_the_same_name_again_is_the_new_choice(recwarn: pytest.WarningsRecorder) -> None:
    for reduction in (4, 8):
        register_timm_model("test_resnet", "se", name="again", reduction=reduction)
    se = next(m for m in timm.create_model("again").modules() if type(m).__name__ == "SE")
    assert se.fc1.in_features == 8 * se.fc1.out_features
    assert not [w for w in recwarn if "Overwriting" in str(w.message)]


@pytest.mark.slow
def test_weights_come_by_tag_and_by_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "timm.models._builder.load_pretrained", lambda model, pretrained_cfg, **_: asked.append(pretrained_cfg["tag"])
    )
    name = register_timm_model("resnet18.a1_in1k", "eca")
    timm.create_model(name, pretrained=True)
    timm.create_model(f"{name}.a2_in1k", pretrained=True)
    timm.create_model("resnet18", pretrained=True)
    assert asked[:2] == ["a1_in1k", "a2_in1k"]

    trained = timm.create_model(name)
    torch.save(trained.state_dict(), tmp_path / "trained.pth")
    torch.manual_seed(1)
    again = timm.create_model(name, checkpoint_path=str(tmp_path / "trained.pth"))
    assert all(map(torch.equal, again.state_dict().values(), trained.state_dict().values()))


def test_timms_own_functions_know_it() -> None:
    name = register_timm_model("test_resnet", "eca")
    assert safe_model_name(name) == name
    assert timm.create_model(name, drop_path_rate=0.1).layer4[0].drop_path.drop_prob > 0
    features: Any = timm.create_model(name, features_only=True)
    assert len(every_gate_runs(features, IMAGE)) == len(features.feature_info)


@pytest.mark.slow
def test_its_file_is_loaded_without_it(tmp_path: Path) -> None:
    name = register_timm_model("test_resnet", "eca")
    model: Any = timm.create_model(name, num_classes=7, drop_path_rate=0.1)
    save(model, tmp_path / "m.pt")
    for form in ("module", "graph"):
        loaded = load(tmp_path / "m.pt", form=form)
        (given,) = every_gate_runs(loaded, IMAGE)
        assert torch.equal(given, model.eval()(IMAGE))
    # What a file cannot say, its reader has to.
    save(timm.create_model(name, act_layer=nn.SiLU), tmp_path / "own.pt")
    with pytest.raises(CheckpointError, match="saved from a model that only its maker had"):
        load(tmp_path / "own.pt")
