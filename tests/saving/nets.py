"""Small patched networks for the file tests, with sources that any process can build; and what a file must hold."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from attn_inject import InjectedModule, inject, save
from attn_inject.zoo.building import build
from attn_inject.zoo.parsing import parse_source

SIZE = (3, 32, 32)
NETWORKS = {
    "cifar:resnet20": ("se", SIZE),
    "cifar:preactresnet20": ("se-var2", SIZE),
    "torchvision:resnet18": ("eca", (3, 64, 64)),
    "torchvision:mobilenet_v3_small": ("eca", (3, 64, 64)),
    "torchvision:squeezenet1_1": ("eca", (3, 64, 64)),
    "torchvision:regnet_x_400mf": ("eca-ns", (3, 64, 64)),
    "torchvision:mnasnet0_5": ("eca", (3, 64, 64)),
    "timm:resnet10t": ("timm:cbam", (3, 64, 64)),
    "timm:test_resnet": ("eca", (3, 64, 64)),
    "timm:repghostnet_050": ("eca", (3, 64, 64)),
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Of outputs between torch and onnxruntime, relative to the largest: sums in another order.
CLOSE = {torch.float32: 1e-5, torch.float16: 1e-2}


def patched(text: str = "cifar:resnet20", attention: str = "eca", seed: int = 3, **options: object) -> InjectedModule:
    """`attention` in a seeded random network, in eval mode."""
    source = parse_source(text, seed=seed)
    torch.manual_seed(seed)
    return inject(build(source), attention, source=source, input_size=options.pop("input_size", SIZE), **options).eval()


def assert_same(a: nn.Module, b: nn.Module) -> None:
    """Names, order, types and bits of the two state dicts."""
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    for key, tensor in ours.items():
        assert tensor.dtype == theirs[key].dtype
        assert torch.equal(tensor, theirs[key]), key


def assert_export_holds(model: InjectedModule, size: tuple[int, ...], path: Path) -> None:
    """Save to `.pt2` or `.onnx`; the file's tensors are the model's to the bit, and it computes what the model does."""
    save(model, path)
    dtype = next(model.parameters()).dtype
    x = torch.randn(3, *size, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        expected = model(x)
    (_assert_pt2 if path.suffix == ".pt2" else _assert_onnx)(model, path, x, expected)


def _assert_pt2(model: InjectedModule, path: Path, x: torch.Tensor, expected: torch.Tensor) -> None:
    program = torch.export.load(path)  # a file of our own making: nobody else's may be read so
    own = model.state_dict()
    assert set(program.state_dict) == set(own)
    for key, tensor in program.state_dict.items():
        assert tensor.dtype == own[key].dtype
        assert torch.equal(tensor, own[key]), key
    with torch.no_grad():
        assert torch.equal(program.module()(x), expected)


def _assert_onnx(model: InjectedModule, path: Path, x: torch.Tensor, expected: torch.Tensor) -> None:
    import onnx
    import onnxruntime

    held = {item.name: item for item in onnx.load(str(path)).graph.initializer}
    own = model.state_dict()
    absent = {key for key in own if key not in held}
    # No eval graph reads the counters of its norms.
    assert {key.rpartition(".")[2] for key in absent} <= {"num_batches_tracked"}
    for key in own.keys() - absent:
        assert held[key].data_type == getattr(onnx.TensorProto, _ONNX_NAMES[own[key].dtype]), key
        assert tuple(held[key].dims) == tuple(own[key].shape)
        assert onnx.numpy_helper.to_array(held[key]).tobytes() == _bytes(own[key]), key
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if x.dtype is torch.bfloat16:
        # The file is sound ONNX, and onnxruntime's CPU provider has no bfloat16 convolution: nothing here can run it.
        try:
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            assert "NOT_IMPLEMENTED" in str(error)
        else:
            raise AssertionError("onnxruntime runs bfloat16 on the CPU now: compare outputs, here and in write_onnx")
        return
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    output = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    assert output.dtype == expected.dtype
    apart = float((output.float() - expected.float()).abs().max() / expected.float().abs().max().clamp(min=1e-3))
    assert apart <= CLOSE[x.dtype], apart


_ONNX_NAMES = {torch.float32: "FLOAT", torch.float16: "FLOAT16", torch.bfloat16: "BFLOAT16", torch.int64: "INT64"}


def _bytes(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
