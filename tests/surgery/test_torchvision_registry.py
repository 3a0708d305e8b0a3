"""A patched network by a name of torchvision's: built, fed with weights, saved and loaded as any of its own."""

# Without `from __future__ import annotations`: torchvision reads off a builder's signature what weights it has.
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import MobileNet_V2_Weights, MobileNetV2, get_model, get_model_weights, list_models
from torchvision.models._api import BUILTIN_MODELS
from torchvision.ops.misc import FrozenBatchNorm2d

from attn_inject import CheckpointError, attach, load, register_torchvision_model, save
from attn_inject.zoo.names import _list_torchvision

from ..before_after import every_gate_runs

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
V1, V2 = MobileNet_V2_Weights.IMAGENET1K_V1, MobileNet_V2_Weights.IMAGENET1K_V2


def small(
    *,
    weights: MobileNet_V2_Weights | None = None,
    progress: bool = True,
    weights_backbone: MobileNet_V2_Weights | None = V1,
    **options: Any,
) -> nn.Module:
    """Two blocks, in a builder as torchvision's are: weights are of one number of classes, V1 has another
    eps, and norms are frozen ones where weights or a backbone's are given."""
    weights = MobileNet_V2_Weights.verify(weights)
    if weights is not None and options.setdefault("num_classes", 1000) != 1000:
        raise ValueError("The parameter 'num_classes' expected value 1000")
    if weights is not None or weights_backbone is not None:
        options["norm_layer"] = partial(FrozenBatchNorm2d, eps=0.1 if weights == V1 else 1e-5)
    model: nn.Module = MobileNetV2(width_mult=0.25, inverted_residual_setting=[[1, 16, 2, 1]], **options)
    if weights is not None:
        model.load_state_dict(weights.get_state_dict(progress=progress))
    return model


@pytest.fixture(autouse=True)
def _registered_here_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.models._api.BUILTIN_MODELS", {**BUILTIN_MODELS, "small": small})


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the weights that were fetched; each time they are some at random, but the same."""
    asked: list[str] = []

    def fetch(weights: Any, **_: Any) -> dict[str, torch.Tensor]:
        asked.append(weights.name)
        return _built("small", norm_layer=FrozenBatchNorm2d).state_dict()

    monkeypatch.setattr(MobileNet_V2_Weights, "get_state_dict", fetch)
    return asked


def _built(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return get_model(name, **{"weights_backbone": None, **options}).eval()


@pytest.mark.slow
def test_it_is_what_attach_gives() -> None:
    name = register_torchvision_model("resnet18", "se", reduction=4)
    assert name == "resnet18_with_se"
    assert name in list_models()
    torch.manual_seed(0)
    # As torchvision's training script asks.
    ours = get_model(name, weights=None, num_classes=3)
    torch.manual_seed(0)
    plain = get_model("resnet18", num_classes=3)
    theirs = attach(plain, "se", reduction=4).eval()
    assert type(ours) is type(plain)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    (given,) = every_gate_runs(ours, IMAGE)
    assert given.shape == (2, 3)
    assert torch.equal(given, theirs(IMAGE))


def test_its_state_dict_is_read_again() -> None:
    name = register_torchvision_model("small", "se:reduction=4")
    trained, again = _built(name, num_classes=3), _built(name, num_classes=3)
    for parameter in trained.parameters():
        nn.init.normal_(parameter, std=0.1)
    again.load_state_dict(trained.state_dict())
    (given,) = every_gate_runs(again, IMAGE)
    assert torch.equal(given, trained(IMAGE))


def test_names_are_words_in_lower_case_and_say_the_options() -> None:
    assert register_torchvision_model("torchvision:small", "timm:cbam") == "small_with_timm_cbam"
    assert register_torchvision_model("small", "se:reduction=8") == "small_with_se_reduction_8"
    assert register_torchvision_model("small", lambda width: nn.Conv2d(width, width, 1), name="Mine") == "mine"
    mine = _built("Mine")
    assert all(isinstance(mine.get_submodule(each.module), nn.Conv2d) for each in mine.injection.plan.insertions)


def test_the_same_name_again_is_the_new_choice() -> None:
    for reduction in (4, 8):
        register_torchvision_model("small", "se", name="again", reduction=reduction)
    se = next(m for m in _built("again").modules() if type(m).__name__ == "SE")
    assert se.fc1.in_features == 8 * se.fc1.out_features


def test_torchvision_knows_its_weights_and_does_not_count_it_among_its_own() -> None:
    name = register_torchvision_model("resnet50", "eca")
    assert get_model_weights(name) is get_model_weights("resnet50")
    own = _list_torchvision()
    assert "resnet50" in own
    assert name not in own


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1", "MobileNet_V2_Weights.IMAGENET1K_V2", V1, V2])
def test_weights_are_there_before_the_attention_is(weights: Any, fetched: list[str], tmp_path: Path) -> None:
    name = register_torchvision_model("small", "eca", init="identity")
    model = _built(name, weights=weights, num_classes=1000)
    (given,) = every_gate_runs(model, IMAGE)
    assert torch.equal(given, _built("small", weights=weights)(IMAGE))
    assert set(fetched) == {"IMAGENET1K_V1" if "V1" in str(weights) else "IMAGENET1K_V2"}
    # Its file has the weights: none are fetched, and what else they decide is decided again.
    fetched.clear()
    save(model, tmp_path / "m.pt")
    default = "V1" not in str(weights)
    (again,) = every_gate_runs(load(tmp_path / "m.pt", form="module", trust_source=not default), IMAGE)
    assert torch.equal(again, given)
    assert not fetched
    if not default:
        with pytest.raises(CheckpointError, match="names a source with weights, which reads further files"):
            load(tmp_path / "m.pt")


def test_weights_of_other_classes_are_refused_by_torchvision(fetched: list[str]) -> None:
    name = register_torchvision_model("small", "eca")
    with pytest.raises(ValueError, match="'num_classes' expected value 1000"):
        get_model(name, weights=V2, num_classes=3)


def test_its_file_is_loaded_without_it(tmp_path: Path) -> None:
    model = _built(register_torchvision_model("small", "eca"), weights=None, num_classes=3, dropout=0.5)
    save(model, tmp_path / "m.pt")
    for form in ("module", "graph"):
        (given,) = every_gate_runs(load(tmp_path / "m.pt", form=form), IMAGE)
        assert torch.equal(given, model(IMAGE))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"norm_layer": nn.InstanceNorm2d}, {"weights_backbone": V1}, {}])
def test_what_a_file_cannot_say_its_reader_has_to(options: dict[str, Any], tmp_path: Path) -> None:
    model = get_model(register_torchvision_model("small", "eca"), **options).eval()
    save(model, tmp_path / "own.pt")
    with pytest.raises(CheckpointError, match="saved from a model that only its maker had"):
        load(tmp_path / "own.pt")
    (given,) = every_gate_runs(load(tmp_path / "own.pt", get_model("small", **options)), IMAGE)
    assert torch.equal(given, model(IMAGE))
