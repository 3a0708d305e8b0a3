"""What all attentions on maps have in common: where they run, how they start, what they fit and what they refuse."""

from __future__ import annotations

import io
import warnings
from typing import Any

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from attn_inject import AttentionError
from attn_inject.attention.gating import unmixed
from attn_inject.attention.registry import build, resolve

from .plain import MAPS, TIGHT, map_of, shaken

# Each runs what other tests run already, many times over: measuring what it covers takes as long as running it.
pytestmark = pytest.mark.no_cover

ALL = sorted(MAPS)
# One with a batch norm, one with groups; the others compile and export in the zoo step.
QUICK = [name if name in ("cbam", "sa") else pytest.param(name, marks=pytest.mark.zoo) for name in ALL]


@settings(max_examples=5, deadline=None)
@given(
    st.one_of(st.integers(1, 300), st.sampled_from([1, 2, 3, 7, 2048])),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.integers(1, 2),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.booleans(),
)
@pytest.mark.parametrize("name", ALL)
def test_any_channels_shape_and_type_starts_as_identity(
    name: str, c: int, size: list[int], n: int, dtype: torch.dtype, train: bool
) -> None:
    module = build(name, c, ndim=len(size), init="identity").to(dtype).train(train)
    x = map_of(n, c, size).to(dtype)
    out = module(x)
    assert out.dtype == dtype
    assert torch.equal(out, x)
    inner = unmixed(build(name, c, ndim=len(size)).to(dtype).train(train))
    assert inner(x).shape == x.shape
    assert inner(x).isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_close_and_large_values_stay_finite(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 64, 9, 8).half()
    module = build(name, 64).eval()
    wanted = module(x.float())
    # LSKA has no sigmoid: its product with the map may itself be out of range.
    in_range = module(x.float() * 2000).abs() < torch.finfo(torch.float16).max / 2
    half = module.half()
    assert (half(x).float() - wanted).abs().max() <= 0.01 * wanted.abs().max()
    assert in_range.float().mean() > 0.5
    assert half(x * 2000)[in_range].isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_a_batch_of_one_trains(name: str) -> None:
    """One value per channel has no variance: running statistics stand in, and stay."""
    module = shaken(build(name, 8, options=MAPS[name].small))
    x = map_of(1, 8, [1, 1]).float()
    before = {key: value.clone() for key, value in module.state_dict().items() if "running" in key}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained = module.train()(x)
    assert trained.isfinite().all()
    # Only these two norm several values even here: those of all channels, and those of two strips.
    if name not in ("triplet", "coord"):
        assert all(torch.equal(module.state_dict()[key], value) for key, value in before.items())
        assert torch.equal(trained, module.eval()(x))


@pytest.mark.parametrize("name", ALL)
def test_train_mode_is_eval_mode_with_the_batchs_own_statistics(name: str) -> None:
    """Of which the variance is that of the batch, not an estimate of a larger one's."""
    module = shaken(build(name, 8, options=MAPS[name].small).double())
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert bool(norms) == (name in ("bam", "cbam", "coord", "sk", "triplet"))
    seen: dict[nn.Module, list[torch.Tensor]] = {norm: [] for norm in norms}
    for norm in norms:
        norm.register_forward_pre_hook(lambda norm, args: seen[norm].append(args[0].detach()))
    x = map_of(3, 8, [5, 4])
    trained = module.train()(x)
    for norm in norms:
        (value,) = seen[norm]
        by_channel = value.transpose(0, 1).flatten(1)
        with torch.no_grad():
            norm.running_mean.copy_(by_channel.mean(1))
            norm.running_var.copy_(by_channel.var(1, correction=0))
    assert (trained - module.eval()(x)).abs().max() <= TIGHT * max(1.0, float(trained.detach().abs().max()))


@pytest.mark.parametrize("name", ALL)
def test_gradients(name: str) -> None:
    torch.manual_seed(0)
    module = shaken(build(name, 6, options={**MAPS[name].small, **MAPS[name].tiny}).double())
    x = torch.randn(2, 6, 3, 2, dtype=torch.float64, requires_grad=True)
    parameters = list(module.parameters())
    names = [name for name, _ in module.named_parameters()]

    def run(x: torch.Tensor, *values: torch.Tensor) -> Any:
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)


@pytest.mark.parametrize("name", ALL)
def test_runs_where_models_run(name: str) -> None:
    module = shaken(build(name, 32)).eval()
    x = torch.randn(2, 32, 6, 5)
    with torch.no_grad():
        y = module(x)
        assert torch.equal(fx.symbolic_trace(module)(x), y)
        assert torch.allclose(torch.jit.script(module)(x), y, atol=1e-6)
        assert torch.allclose(module(x.to(memory_format=torch.channels_last)), y, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert module(x).shape == x.shape
    with torch.device("meta"):
        assert build(name, 32)(torch.empty(2, 32, 6, 5)).shape == x.shape
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), y)


@pytest.mark.parametrize("name", QUICK)
def test_exports_with_open_batch_and_image_size(name: str) -> None:
    module = shaken(build(name, 32)).eval()
    sizes = {axis: torch.export.Dim(f"d{axis}", min=1, max=64) for axis in (0, 2, 3)}
    exported = torch.export.export(module, (torch.randn(2, 32, 6, 5),), dynamic_shapes=(sizes,)).module()
    for shape in ((1, 32, 6, 5), (3, 32, 9, 4), (2, 32, 1, 7), (1, 32, 1, 1)):
        other = torch.randn(shape)
        assert torch.allclose(exported(other), module(other), atol=1e-5)


@pytest.mark.zoo
@pytest.mark.parametrize("by_dynamo", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_onnx_with_open_batch_and_image_size(name: str, by_dynamo: bool) -> None:
    module = shaken(build(name, 32)).eval()
    x = torch.randn(2, 32, 6, 5)
    file = io.BytesIO()
    axes = {0: "n", 2: "h", 3: "w"}
    if by_dynamo:
        sizes = ({axis: torch.export.Dim(letter) for axis, letter in axes.items()},)
        program = torch.onnx.export(module, (x,), dynamo=True, verbose=False, dynamic_shapes=sizes)
        assert program is not None
        program.save(file)
    else:
        torch.onnx.export(module, (x,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": axes})
    session = onnxruntime.InferenceSession(file.getvalue())
    (given,) = (each.name for each in session.get_inputs())
    for shape in ((1, 32, 6, 5), (3, 32, 9, 4), (2, 32, 1, 7), (1, 32, 1, 1)):
        other = torch.randn(shape)
        out = torch.from_numpy(session.run(None, {given: other.numpy()})[0])
        assert torch.allclose(out, module(other), atol=1e-4)


@pytest.mark.parametrize("name", QUICK)
def test_compiles_whole(name: str) -> None:
    module = shaken(build(name, 16))
    _same_in_training(module, torch.compile(module, fullgraph=True, backend="eager"))
    module.eval()
    x = torch.randn(1, 16, 3, 7)
    assert torch.equal(torch.compile(module, fullgraph=True, backend="eager")(x), module(x))


@pytest.mark.parametrize("name", ALL)
def test_trains_traced(name: str) -> None:
    module = shaken(build(name, 16)).train()
    _same_in_training(module, fx.symbolic_trace(module))


def _same_in_training(module: nn.Module, twin: Any) -> None:
    """Outputs and the statistics that a step leaves, of `module` and of what was made of it over the same tensors."""
    x = torch.randn(2, 16, 5, 4)
    start = {key: value.clone() for key, value in module.train().state_dict().items()}
    y = module(x)
    after = {key: value.clone() for key, value in module.state_dict().items()}
    module.load_state_dict(start)
    assert torch.equal(twin(x), y)
    assert all(torch.equal(value, after[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("name", ALL)
def test_deterministic_algorithms_are_there(name: str) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        module = build(name, 16)
        module(torch.randn(2, 16, 5, 4, requires_grad=True)).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", [name for name in ALL if name != "simam"])
@pytest.mark.parametrize("ndim", [0, 4])
def test_other_ranks_are_refused_in_a_sentence(name: str, ndim: int) -> None:
    with pytest.raises(AttentionError, match=f"ndim must be one of 1, 2, 3; got '{ndim}'"):
        build(name, 16, ndim=ndim)


@pytest.mark.parametrize("name", ALL)
def test_listed_with_its_paper(name: str) -> None:
    attention = resolve(name)
    assert attention.family in ("spatial", "both", "branch")
    assert 2018 <= attention.year <= 2024
    assert attention.summary
    assert attention.paper
