from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from attn_inject.errors import SourceError
from attn_inject.types import Source
from attn_inject.zoo.building import build
from attn_inject.zoo.names import models
from attn_inject.zoo.parsing import parse_source
from attn_inject.zoo.sizes import input_size

FACTORY = """
import torch
from torch import nn
from beside import WIDTH

class Net(nn.Module):
    def __init__(self, width=WIDTH, fail=False):
        super().__init__()
        if fail:
            raise ValueError("no such width")
        self.conv = nn.Conv2d(1, width, 3)

    @classmethod
    def wide(cls):
        return cls(64)

def text():
    return "no model"

limit = 3
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))  # so that sys.path is given back as it was
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text("WIDTH = 4\n")
    path = tmp_path / "users_net.py"
    path.write_text(FACTORY)
    for name in ("users_net", "beside"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resnet50", "torchvision:resnet50"),
        ("  resnet50 ", "torchvision:resnet50"),
        ("timm:resnet50", "timm:resnet50"),
        ("resnet50d", "timm:resnet50d"),
        ("resnet50.a1_in1k", "timm:resnet50.a1_in1k"),
        ("quantized_resnet50", "torchvision:quantized_resnet50"),
        ("torchvision:r3d_18", "torchvision:r3d_18"),
        ("cifar:resnet20", "cifar:resnet20"),
        ("torchvision.models:resnet18", "torchvision.models:resnet18"),
    ],
)
def test_names_resolve_torchvision_first(text: str, expected: str) -> None:
    assert str(parse_source(text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet5O", "neither torchvision nor timm: the nearest names are cifar:resnet56, resnet50, "),
        ("resnet20", "cifar:resnet20"),
        ("timm:resnet5", "no model 'resnet5' in timm: the nearest names are resnet50"),
        ("torchvision:resnet50d", "no model 'resnet50d' in torchvision: the nearest names are resnet50"),
        ("cifar:resnet21", "resnet20"),
        ("qqqqqqqqqq", "'attn-inject models' lists all names"),
        ("resnet50.no_such_tag", "resnet50"),
        ("", "empty"),
        ("net.py", "net.py:make_model"),
        ("model.pt", "attn-inject inspect FILE"),
        ("weights.pth", "--checkpoint FILE"),
        ("model.onnx", "name the model that it was made of"),
        ("absent.py:make", "there is no file absent.py"),
        ("a b:make", "neither a zoo"),
        ("package:1", "not the name of a function"),
    ],
)
def test_a_wrong_name_is_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse_source(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parsing_a_torchvision_name_imports_neither_torch_nor_a_zoo_when_the_cache_is_warm() -> None:
    parse_source("resnet50")
    code = (
        "import sys; from attn_inject.zoo.parsing import parse_source; parse_source('resnet50');"
        "print([m for m in ('torch', 'torchvision', 'timm') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.slow
def test_a_torchvision_model_is_built_without_timm() -> None:
    code = (
        "import sys; from attn_inject.zoo.parsing import parse_source; from attn_inject.zoo.building import build;"
        "from attn_inject.zoo.sizes import input_size; s = parse_source('resnet18');"
        "input_size(build(s, device='meta'), s); print('timm' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )


def test_a_model_registered_in_this_process_is_known_here_and_kept_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import _api

    monkeypatch.setenv("ATTN_INJECT_CACHE", str(tmp_path))

    @_api.register_model()
    def net_of_this_test() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3))

    try:
        assert str(parse_source("net_of_this_test")) == "torchvision:net_of_this_test"
        assert "net_of_this_test" not in (tmp_path / "torchvision-models.json").read_text()
    finally:
        del _api.BUILTIN_MODELS["net_of_this_test"]


def test_weights_are_asked_for_where_there_are_some(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no weights to download"):
        parse_source("cifar:resnet20", pretrained=True)
    with pytest.raises(SourceError, match="there is no file of weights"):
        parse_source("resnet18", checkpoint=str(tmp_path / "absent.pt"))
    (tmp_path / "w.pt").write_bytes(b"")
    with pytest.raises(SourceError, match="give one of them"):
        parse_source("resnet18", checkpoint=str(tmp_path / "w.pt"), pretrained=True)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_no_generator_takes(seed: int) -> None:
    with pytest.raises(SourceError, match="the seed must be"):
        parse_source("resnet18", seed=seed)


def test_a_download_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("network is unreachable\nand more")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(SourceError, match=r"^the weights of torchvision:resnet18 could not be fetched: .*unreachable$"):
        build(parse_source("resnet18", pretrained=True))


def test_the_seed_makes_weights_repeatable_and_leaves_the_callers_state() -> None:
    source = parse_source("cifar:resnet20", seed=3)
    before = torch.random.get_rng_state()
    one, two = build(source), build(source)
    other = build(parse_source("cifar:resnet20", seed=4))
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = list(zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_model_args_reach_the_factory() -> None:
    assert build(parse_source("resnet18", model_args={"num_classes": 7})).fc.out_features == 7
    with pytest.raises(SourceError, match=r"torchvision:resnet18 could not be built: TypeError: .*no_such"):
        build(parse_source("resnet18", model_args={"no_such": 7}))


@pytest.mark.parametrize(
    "name", ["resnet18", "regnet_y_400mf", "quantized_resnet18", "timm:efficientnet_b0", "lraspp_mobilenet_v3_large"]
)
def test_the_meta_device_allocates_nothing(name: str) -> None:
    model = build(parse_source(name), device="meta")
    assert {t.device.type for t in [*model.parameters(), *model.buffers()]} == {"meta"}
    assert sum(p.numel() for p in model.parameters()) > 1_000_000


def test_a_users_file(file: Path) -> None:
    model = build(parse_source("users_net.py:Net", model_args={"width": 8}))
    assert model.conv.out_channels == 8
    assert build(parse_source(f"{file}:Net")).conv.out_channels == 4
    assert build(parse_source("users_net.py:Net.wide")).conv.out_channels == 64
    assert build(parse_source("users_net:Net.wide")).conv.out_channels == 64


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("users_net.py:Net", {"fail": True}, r"ValueError: no such width \(users_net.py, line 10\)"),
        ("users_net.py:absent", {}, "there is no 'absent' in users_net.py"),
        ("users_net.py:text", {}, "gave a str, not a torch.nn.Module"),
        ("users_net.py:limit", {}, "is a int, not a function"),
        ("no_such_package.models:net", {}, "there is no module no_such_package.models"),
        ("leaves.py:net", {}, r"SystemExit: 3 \(leaves.py, line 1\)"),
        ("broken.py:net", {}, r"SyntaxError: .*"),
    ],
)
def test_faults_of_a_users_file_are_one_sentence(file: Path, name: str, args: dict[str, object], message: str) -> None:
    file.with_name("broken.py").write_text("def net(:\n")
    file.with_name("leaves.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(SourceError, match=message) as caught:
        build(parse_source(name, model_args=args))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", [Source("file", "users_net.py:Net"), Source("module", "users_net:Net")])
def test_code_named_by_a_saved_file_runs_only_when_trusted(file: Path, source: Source) -> None:
    with pytest.raises(SourceError, match="trust_source=True"):
        build(source, trust=False)
    assert "users_net" not in sys.modules


def test_a_callers_model_cannot_be_built() -> None:
    with pytest.raises(SourceError, match="hand it over"):
        build(Source("object", "Net"))


# Sizes: timm's pretrained_cfg, torchvision's evaluation presets, and the usual ones.
@pytest.mark.parametrize(
    ("name", "from_source", "from_model"),
    [
        ("resnet18", (3, 224, 224), (3, 224, 224)),
        ("inception_v3", (3, 299, 299), (3, 299, 299)),
        ("efficientnet_b4", (3, 380, 380), (3, 224, 224)),
        ("r3d_18", (3, 16, 112, 112), (3, 16, 112, 112)),
        ("deeplabv3_resnet50", (3, 520, 520), (3, 520, 520)),
        ("timm:inception_v4", (3, 299, 299), (3, 299, 299)),
        ("cifar:resnet20", (3, 32, 32), (3, 32, 32)),
    ],
)
def test_input_sizes(name: str, from_source: tuple[int, ...], from_model: tuple[int, ...]) -> None:
    source = parse_source(name)
    model = build(source, device="meta")
    assert input_size(model, source) == from_source
    assert input_size(model) == from_model


def test_input_sizes_of_other_models() -> None:
    assert input_size(nn.Sequential(nn.Conv1d(5, 8, 3))) == (5, 1024)
    assert input_size(nn.Sequential(nn.Conv2d(1, 8, 3))) == (1, 224, 224)
    assert input_size(nn.Linear(3, 3)) is None
    assert input_size(build(parse_source("resnet18", model_args={}), device="meta")) == (3, 224, 224)


def test_models_are_listed_by_glob_or_part() -> None:
    names = {str(m.name) for m in models("resnet50*") if m.zoo == "torchvision"}
    assert names == {"resnet50"}
    assert {m.zoo for m in models("resnet50")} == {"torchvision", "timm"}
    assert [m.task for m in models("torchvision:r3d_18")] == ["video"]
    assert models("no such model") == []
    assert len(models()) > 1000


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every fetch fails, and is noted."""
    asked: list[object] = []

    def fail(url: str, *args: object, **kwargs: object) -> None:
        asked.append(url)
        raise OSError("network is unreachable")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    return asked


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("resnet18", {}),
        ("densenet121", {}),
        ("googlenet", {}),
        ("inception_v3", {}),
        ("deeplabv3_resnet50", {"aux_loss": True}),
        ("quantized_resnet18", {}),
    ],
)
def test_the_network_that_pretrained_weights_imply_is_built_without_them(
    offline: list[object], name: str, args: dict[str, object]
) -> None:
    implied = build(Source("torchvision", name, pretrained=True), device="meta", fetch=False)
    apart = {"weights_backbone": None} if name.startswith("deeplab") else {}
    plain = build(Source("torchvision", name, args={**args, **apart}), device="meta")
    transforms = name in ("googlenet", "inception_v3")
    kept = shapes(implied)
    # googlenet's auxiliary heads are loaded, and then taken off again unless they are asked for.
    expected = {k: v for k, v in shapes(plain).items() if name != "googlenet" or not k.startswith("aux")}
    assert kept == expected
    assert getattr(implied, "transform_input", False) == transforms
    assert offline == []


@pytest.mark.parametrize("weights", ["COCO_V1", "DEFAULT"])
def test_a_detection_network_gets_the_norms_of_its_weights(offline: list[object], weights: str) -> None:
    from torchvision.ops import FrozenBatchNorm2d

    source = Source("torchvision", "fasterrcnn_resnet50_fpn", pretrained=True, args={"weights": weights})
    norms = [m for m in build(source, device="meta", fetch=False).modules() if isinstance(m, FrozenBatchNorm2d)]
    assert {norm.eps for norm in norms} == {0.0}
    assert offline == []


def test_a_quantized_network_is_built_without_its_weights(offline: list[object]) -> None:
    model = build(Source("torchvision", "quantized_resnet18", pretrained=True, args={"quantize": True}), fetch=False)
    assert "quantized" in type(model.conv1).__module__
    assert offline == []


def test_random_weights_stay_what_the_seed_makes_them(offline: list[object]) -> None:
    one = build(Source("torchvision", "resnet18", pretrained=True, seed=3), fetch=False)
    two = build(Source("torchvision", "resnet18", seed=3))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_weights_of_no_such_name_are_told_as_ever(offline: list[object]) -> None:
    source = Source("torchvision", "resnet18", pretrained=True, args={"weights": "IMAGENET9"})
    with pytest.raises(SourceError, match="torchvision:resnet18 could not be built: KeyError: 'IMAGENET9'"):
        build(source, fetch=False)


def test_other_threads_load_and_fetch_as_ever_while_weights_are_withheld(
    offline: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The builder is halted after it was handed its weights, and before it loads them."""
    from torchvision.models import ResNet18_Weights, resnet

    member, load = ResNet18_Weights.DEFAULT, nn.Module.load_state_dict
    before, seen = dict(vars(member)), []

    def beside() -> None:
        seen.append(nn.Module.load_state_dict is load)
        try:
            resnet.resnet18(weights=member)
        except OSError as error:
            seen.append(str(error))

    class Halting(resnet.ResNet):  # type: ignore[misc]
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)
            if threading.current_thread() is threading.main_thread():
                other = threading.Thread(target=beside)
                other.start()
                other.join()

    monkeypatch.setattr(resnet, "ResNet", Halting)
    build(Source("torchvision", "resnet18", pretrained=True), fetch=False)
    assert seen == [True, "network is unreachable"]
    assert offline == [member.url]
    assert dict(vars(member)) == before
    assert nn.Module.load_state_dict is load
