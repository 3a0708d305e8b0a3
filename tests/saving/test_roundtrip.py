"""Save then load is the identity, to the bit, in every format that loads; the others run elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import attn_inject
from attn_inject import CheckpointError, attach, inject, load, save
from attn_inject.files.aligned import ALIGNMENT
from attn_inject.saving.exported import write_pt2
from attn_inject.saving.inspection import inspect
from attn_inject.tracing.inputs import Inputs
from attn_inject.zoo.building import build
from attn_inject.zoo.parsing import parse_source

from ..by_hand import every_other
from ..toys import Residual, gates_run
from . import exchange
from .nets import DTYPES, NETWORKS, SIZE, assert_export_holds, assert_same, patched

FIXTURES = Path(__file__).parent / "fixtures"


# The other precisions are with the sweeps.
PRECISIONS = [
    pytest.param(dtype, marks=[pytest.mark.zoo] * (dtype is not torch.float32), id=str(dtype)) for dtype in DTYPES
]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt", pytest.param(".safetensors", marks=pytest.mark.zoo)])
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", every_other(NETWORKS))
def test_ten_networks_in_three_precisions(name: str, dtype: torch.dtype, suffix: str, tmp_path: Path) -> None:
    attention, size = NETWORKS[name]
    model = patched(name, attention, input_size=size).to(dtype)
    save(model, tmp_path / f"m{suffix}")
    again = load(tmp_path / f"m{suffix}")
    assert_same(model, again)
    assert {tensor.dtype for tensor in again.state_dict().values()} <= {dtype, torch.int64}
    x = torch.randn(2, *size).to(dtype)
    assert torch.equal(again(x), model(x))
    assert not again.training
    assert again.injection.plan == model.injection.plan
    assert again.injection.verification == model.injection.verification


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", pytest.param(".onnx", marks=pytest.mark.zoo)])
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_exports_in_three_precisions(dtype: torch.dtype, suffix: str, tmp_path: Path) -> None:
    """On one network; `tests/zoo/test_round_trips.py` has the ten."""
    assert_export_holds(patched(attention="se").to(dtype), SIZE, tmp_path / f"m{suffix}")


@pytest.mark.slow
@pytest.mark.parametrize("attention_only", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_was_loaded_lies_where_torch_would_have_put_it(suffix: str, attention_only: bool, tmp_path: Path) -> None:
    """Kernels choose their way by alignment, and other kernels give other last bits."""
    path = tmp_path / f"m{suffix}"
    save(patched("torchvision:mobilenet_v3_small", "se"), path, attention_only=attention_only)
    state = load(path).state_dict()
    assert [name for name, tensor in state.items() if tensor.data_ptr() % ALIGNMENT] == []
    assert len({tensor.untyped_storage().data_ptr() for tensor in state.values()}) == len(state)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_a_plain_checkpoint_lie_so_too(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{suffix}"
    model = build(parse_source("timm:repghostnet_050", seed=1))
    save_file(model.state_dict(), path) if suffix == ".safetensors" else torch.save(model.state_dict(), path)
    again = build(parse_source("timm:repghostnet_050", checkpoint=str(path)))
    assert [name for name, tensor in again.state_dict().items() if tensor.data_ptr() % ALIGNMENT] == []


@pytest.mark.zoo
def test_from_one_process_to_another(tmp_path: Path) -> None:
    """Saved there, loaded here: weights and outputs are equal to the bit. `.ci/run` does it across torches."""
    root = Path(__file__).parents[2]
    # The first, and two whose kernels are the pickiest about where weights lie.
    names = ("cifar:resnet20", "torchvision:mobilenet_v3_small", "timm:repghostnet_050")
    command = [sys.executable, "-m", "tests.saving.exchange", "write", str(tmp_path), *names]
    subprocess.run(command, check=True, cwd=root)
    assert exchange.read(tmp_path) == len(names) * len(DTYPES) * 2


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_flags_modes_and_ties_survive(suffix: str, tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build(parse_source("cifar:resnet20"))
            self.other = nn.Linear(64, 10)
            self.other.weight = self.inner.get_parameter("fc.weight")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    original = Tied()
    model = inject(original, "eca", input_size=SIZE).train()
    model.inner.conv1.weight.requires_grad_(False)
    save(model, tmp_path / f"m{suffix}")
    with pytest.raises(CheckpointError, match="only its maker had"):
        load(tmp_path / f"m{suffix}")
    again = load(tmp_path / f"m{suffix}", original)
    assert_same(model, again)
    assert again.training
    assert not again.inner.conv1.weight.requires_grad
    assert again.inner.fc.weight.requires_grad
    assert again.other.weight is again.inner.fc.weight


@pytest.mark.slow
def test_plain_torch_load_in_a_fresh_process(tmp_path: Path) -> None:
    model = patched()
    save(model, tmp_path / "m.pt")
    code = (
        "import sys, torch\n"
        f"d = torch.load({str(tmp_path / 'm.pt')!r}, weights_only=True)\n"
        "assert 'attn_inject' not in sys.modules\n"
        "print(len(d['state_dict']), d['attn_inject'][:12])\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split()[0] == str(len(model.state_dict()))


def test_attention_only_fits_copies_of_its_model_and_no_other(tmp_path: Path) -> None:
    model = patched()
    save(model, tmp_path / "a.safetensors", attention_only=True)
    again = load(tmp_path / "a.safetensors")
    assert_same(model, again)
    fresh = build(parse_source("cifar:resnet20", seed=9))
    other = load(tmp_path / "a.safetensors", fresh)
    assert torch.equal(other.layer1[0].eca.conv.weight, model.layer1[0].eca.conv.weight)
    assert torch.equal(other.conv1.weight, fresh.conv1.weight)
    with pytest.raises(CheckpointError, match="is for another model"):
        load(tmp_path / "a.safetensors", build(parse_source("cifar:resnet32")))


RUNNING = """
import sys, torch
sys.modules['attn_inject'] = None
path, inputs = sys.argv[1:]
x, y = torch.load(inputs)
if path.endswith('.pt2'):
    z = torch.export.load(path).module()(x)
else:
    import onnxruntime
    session = onnxruntime.InferenceSession(path)
    z = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
print(float((z - y).abs().max()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", pytest.param(".onnx", marks=pytest.mark.zoo)])
def test_exports_run_without_this_package(suffix: str, tmp_path: Path) -> None:
    model = patched()
    x = torch.randn(3, *SIZE)
    torch.save((x, model(x)), tmp_path / "io.pt")
    path = tmp_path / f"m{suffix}"
    save(model, path)
    assert inspect(path).plan == model.injection.plan
    with pytest.raises(CheckpointError, match="for other programs to run"):
        load(path)
    command = [sys.executable, "-c", RUNNING, str(path), str(tmp_path / "io.pt")]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(out) <= {".pt2": 1e-5, ".onnx": 1e-4}[suffix]
    assert model.training is False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_an_export_to_a_full_disk_is_an_error_and_not_the_end_of_the_process() -> None:
    model = nn.Conv2d(3, 4, 3).eval()
    with pytest.raises(OSError, match="No space left on device"):
        write_pt2(Path("/dev/full"), "{}", model, Inputs((torch.randn(2, 3, 8, 8),)))


@pytest.mark.slow
def test_scope_and_replaced_modules(tmp_path: Path) -> None:
    holder = nn.Sequential(torchvision.models.mobilenet_v3_small(), nn.Linear(1000, 2))
    model = inject(holder, "eca", scope="0", existing="replace", input_size=(3, 64, 64)).eval()
    save(model, tmp_path / "m.pt")
    again = load(tmp_path / "m.pt", holder)
    assert_same(model, again)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize(
    "name",
    [pytest.param("googlenet", marks=pytest.mark.zoo), pytest.param("inception_v3", marks=pytest.mark.zoo), "resnet18"],
)
def test_networks_that_differ_with_pretrained_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision's two then transform their input, and googlenet has no side branches; nothing is fetched on load."""
    from torchvision.models._api import WeightsEnum

    more = {"resnet18": {}}.get(name, {"aux_logits": True, "init_weights": False})
    weights = torchvision.models.get_model(name, **more).state_dict()
    source = parse_source(f"torchvision:{name}", pretrained=True)
    with monkeypatch.context() as patch:
        patch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: weights)
        original = build(source)
    model = inject(original, "eca", source=source, input_size=(3, 96, 96)).eval()
    save(model, tmp_path / "m.pt")
    again = load(tmp_path / "m.pt")
    assert_same(model, again)
    assert getattr(again, "transform_input", False) == (name != "resnet18")
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    save(model, tmp_path / "a.pt", attention_only=True)
    with monkeypatch.context() as patch:
        patch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: weights)
        assert_same(model, load(tmp_path / "a.pt"))


def test_inspect_says_what_it_is(tmp_path: Path) -> None:
    model = patched()
    save(model, tmp_path / "m.pt")
    info = inspect(tmp_path / "m.pt")
    assert (info.format, str(info.source), info.added) == (".pt", "cifar:resnet20", 9 * 3)
    assert info.elements == sum(t.numel() for t in model.state_dict().values())
    assert info.versions["torch"] == model.injection.versions["torch"]
    assert info.verification.passed


def test_files_of_format_1_still_load() -> None:
    """Written by version 0.1.0; they must load for as long as the major version is 0 or 1."""
    expected = json.loads((FIXTURES / "v1.json").read_text())
    for path in sorted(FIXTURES.glob("v1.*")):
        if path.suffix == ".json":
            continue
        model = load(path, _fixture_model())
        sums = {key: float(tensor.double().sum()) for key, tensor in model.state_dict().items()}
        assert sums == pytest.approx(expected, abs=1e-9)


def _fixture_model() -> nn.Module:
    from ..toys import Block, Toy, _iadd

    return Toy(Block(_iadd, 4, 4), width=4, out=4)


def write_fixtures() -> None:
    """`python -c "from tests.saving.test_roundtrip import write_fixtures as w; w()"`; only for a new format."""
    FIXTURES.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = inject(_fixture_model(), "se", reduction=2, input_size=(3, 16, 16))
    for suffix in (".pt", ".safetensors"):
        save(model, FIXTURES / f"v1{suffix}")
    sums = {key: float(tensor.double().sum()) for key, tensor in model.state_dict().items()}
    (FIXTURES / "v1.json").write_text(json.dumps(sums, indent=1) + "\n")


def test_public_names_are_the_modules() -> None:
    assert attn_inject.save is save
    assert attn_inject.load is load


class Listed(nn.Module):
    """A convolution and its norm, registered twice, as nnU-Net's are."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inputs, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.all_modules = nn.Sequential(self.conv, self.norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.all_modules(x)
        return y


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = Listed(3), Listed(8), Listed(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y: torch.Tensor = self.b(self.a(x).relu())
        return x + y


@pytest.mark.parametrize("put", [inject, attach])
def test_a_norm_with_two_names_is_loaded(put: Any, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    patched = put(Twice(), "se", input_size=8, reduction=4, copy=True).train()
    patched(x)
    save(patched, tmp_path / "twice.pt")
    loaded = load(tmp_path / "twice.pt", Twice())
    assert torch.equal(loaded.eval()(x), patched.eval()(x))
    assert gates_run(loaded, x) == 1
    other = loaded.get_submodule("a")
    assert other.norm is other.all_modules[1]


class Scaled(nn.Module):
    """Takes two numbers beside its images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 16, 1), Residual(nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1))

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.body(self.stem(x)) * scale[0] + scale[1]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_an_exported_batch_is_open_whatever_was_traced(batch: int, tmp_path: Path) -> None:
    """One of 1 is a fixed extent for torch.export, and two numbers beside two images are no batch."""
    scale = torch.randn(2)
    patched = inject(Scaled(), "se", reduction=4, example_inputs=(torch.randn(batch, 3, 8, 8), scale)).eval()
    save(patched, tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2").module()
    for count in (1, 5):
        x = torch.randn(count, 3, 8, 8)
        torch.testing.assert_close(program(x, scale), patched(x, scale))


def test_a_batch_that_the_code_fixes_is_told_in_our_words(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Residual(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x).reshape(4, -1)

    patched = inject(Fixed(), "eca", example_inputs=torch.randn(4, 3, 8, 8)).eval()
    with pytest.raises(CheckpointError, match="cannot export this model: its code holds for a batch of 4 alone"):
        save(patched, tmp_path / "net.pt2")
    assert not (tmp_path / "net.pt2").exists()
