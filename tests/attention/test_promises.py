"""What every attention of the channel and context families keeps, whatever its equations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

from attn_inject.attention.gating import ChannelGate
from attn_inject.attention.registry import build

from .written import CASES, ONE_SIZE, drawn, shaken

# Each runs what other tests run already, many times over: measuring what it covers takes as long as running it.
pytestmark = pytest.mark.no_cover

GATES = ("srm", "gct", "gct l1", "gaussian-gct", "gaussian-gct b1", "lct", "fca", "fca sized", "ge", "ge sized")
# Strides leave one position of a smaller map, which torch.export takes for another case.
LEAST_SIZE = {"ge local": 9, "ge theta": 9, "ge plus": 9}


def made(case: str, channels: int = 32, **how: Any) -> nn.Module:
    name, options = CASES[case]
    torch.manual_seed(0)
    return build(name, channels, options=options, **how)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("channels", [1, 2, 3, 7, 130])
def test_fits_any_channel_count(case: str, channels: int) -> None:
    for init in ("paper", "identity"):
        module: Any = made(case, channels, init=init)
        x = torch.randn(2, channels, 9, 7)
        y = module(x)
        assert y.shape == x.shape
        assert y.isfinite().all()
        assert init == "paper" or torch.equal(y, x)


@pytest.mark.parametrize("case", CASES)
def test_any_batch_and_size_in_both_modes(case: str) -> None:
    sizes = [(9, 7)] if case in ONE_SIZE else [(1, 1), (1, 5), (9, 7), (14, 3)]
    module = made(case)
    for size in sizes:
        for batch in (1, 3):
            x = torch.randn(batch, 32, *size, requires_grad=True)
            for training in (True, False):
                y = module.train(training)(x)
                assert y.shape == x.shape
                gradient = torch.autograd.grad(y.sum(), x)[0]
                assert y.isfinite().all()
                assert gradient.isfinite().all()


@pytest.mark.parametrize("case", CASES)
def test_gradients(case: str) -> None:
    module = shaken(made(case, 4)).train()
    x = drawn(2, 4, [9, 7] if case in ONE_SIZE else [3, 2]).requires_grad_()
    # NAM's code keeps gradients out of its weights on purpose.
    parameters = [p for name, p in module.named_parameters() if case != "nam" or name != "norm.weight"]

    def run(*_: torch.Tensor) -> torch.Tensor:
        return module(x)

    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_half_precision_is_that_of_float32_rounded(case: str, dtype: torch.dtype) -> None:
    x = torch.randn(2, 32, 9, 7).to(dtype)
    with torch.no_grad():
        y, expected = made(case).eval().to(dtype)(x), made(case).eval()(x.float())
    assert y.dtype == dtype
    # Six roundings of the largest value.
    assert (y.float() - expected).abs().max() <= 6 * torch.finfo(dtype).eps * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", [case for case in CASES if case not in ONE_SIZE])
def test_half_precision_does_not_overflow(case: str, dtype: torch.dtype) -> None:
    """Sums, squares and products over this map are beyond float16. GAM's own output is cubic in x."""
    x = (torch.rand(2, 32, 48, 48) * (2 if case.startswith("gam") else 300)).to(dtype)
    with torch.no_grad():
        y = made(case).eval().to(dtype)(x)
    assert y.dtype == dtype
    assert y.isfinite().all()


@pytest.mark.parametrize("case", CASES)
def test_repeats_itself_where_algorithms_are_deterministic(case: str) -> None:
    x = torch.randn(2, 32, 9, 7)
    torch.use_deterministic_algorithms(True)  # an operation that has none raises an error
    try:
        results = []
        for _ in range(2):
            module, given = made(case), x.clone().requires_grad_()
            (module(given) * x).sum().backward()
            results.append([given.grad, *(p.grad for p in module.parameters())])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("case", CASES)
def test_runs_where_models_run(case: str) -> None:
    module = made(case).eval()
    x = torch.randn(2, 32, 9, 7)
    with torch.no_grad():
        y = module(x)
        torch.compiler.reset()
        assert torch.equal(torch.compile(module, fullgraph=True, backend="eager")(x), y)
        assert torch.equal(torch.jit.script(module)(x), y)
        assert torch.equal(torch.jit.trace(module, x)(x), y)
        assert torch.equal(fx.symbolic_trace(module)(x), y)
        assert torch.allclose(module(x.to(memory_format=torch.channels_last)), y, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert module(x).shape == x.shape
        with torch.device("meta"):
            assert made(case)(torch.empty(x.shape)).shape == x.shape


def open_shapes(case: str) -> tuple[torch.Tensor, dict[int, Any], torch.Tensor]:
    """(an example, what of it is open, another batch and size)."""
    shapes = {0: torch.export.Dim("n", min=1, max=64)}
    if case in ONE_SIZE:
        return torch.randn(2, 32, 9, 7), shapes, torch.randn(1, 32, 9, 7)
    least = LEAST_SIZE.get(case, 2)
    shapes |= {axis: torch.export.Dim(f"s{axis}", min=least, max=512) for axis in (2, 3)}
    return torch.randn(2, 32, 18, 14), shapes, torch.randn(1, 32, 25, 15)


@pytest.mark.zoo
@pytest.mark.parametrize("init", ["paper", "identity"])
@pytest.mark.parametrize("case", CASES)
def test_exports_with_open_batch_and_size(case: str, init: str) -> None:
    module = made(case, init=init).eval()
    x, shapes, other = open_shapes(case)
    exported = torch.export.export(module, (x,), dynamic_shapes=(shapes,)).module()
    with torch.no_grad():
        assert torch.allclose(exported(other), module(other), atol=1e-5)


@pytest.mark.zoo
@pytest.mark.parametrize("case", CASES)
def test_onnx_with_open_batch_and_size(case: str, tmp_path: Path) -> None:
    module = made(case).eval()
    x, shapes, other = open_shapes(case)
    torch.onnx.export(module, (x,), tmp_path / "gate.onnx", dynamo=True, dynamic_shapes=(shapes,), verbose=False)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(tmp_path / "gate.onnx", providers=["CPUExecutionProvider"])
    y = session.run(None, {session.get_inputs()[0].name: other.numpy()})[0]
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(y), module(other), atol=1e-5)


def test_gates_are_gates() -> None:
    """`optimize` takes what is one: out = x * gate(pool(x))."""
    for case in GATES:
        gate = made(case)
        assert isinstance(gate, ChannelGate)
        x = torch.randn(2, 32, 9, 7)
        assert torch.equal(gate.eval()(x), x * gate.gate(gate.pool(x)).reshape(2, 32, 1, 1))
    assert not any(isinstance(made(case), ChannelGate) for case in CASES if case not in GATES)
