"""Other people's tools on both forms of a patched model: the attention is there, runs, and is counted."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from attn_inject import attach, inject
from attn_inject.attention.gating import ChannelGate

pytestmark = pytest.mark.wild

FORMS = [inject, attach]
IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def _made(form: Any) -> nn.Module:
    torch.manual_seed(0)
    patched: nn.Module = form(torchvision.models.resnet18().eval(), "se", input_size=64).eval()
    return patched


def _counted(model: nn.Module) -> int:
    """How many gates run in one pass."""
    ran: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, ChannelGate):
            module.register_forward_hook(lambda gate, *_: ran.append(gate))
    with torch.no_grad():
        model(IMAGE)
    return len(ran)


def _torchinfo(tool: Any, model: nn.Module) -> None:
    summary = tool.summary(model, input_data=IMAGE, verbose=0)
    assert summary.total_params == sum(parameter.numel() for parameter in model.parameters())


def _fvcore(tool: Any, model: nn.Module) -> None:
    counts = tool.FlopCountAnalysis(model, IMAGE).unsupported_ops_warnings(False).by_module()
    # Two layers of 64 x 4, two images, and what their gate takes beside.
    assert counts["layer1.0.se"] >= 2 * 2 * 64 * 4


def _captum(tool: Any, model: nn.Module) -> None:
    assert tool.IntegratedGradients(model).attribute(IMAGE, target=0, n_steps=2).shape == IMAGE.shape


def _torch_pruning(tool: Any, model: nn.Module) -> None:
    graph = tool.DependencyGraph().build_dependency(model, example_inputs=IMAGE)
    conv = model.get_submodule("layer2.0.conv2")
    graph.get_pruning_group(conv, tool.prune_conv_out_channels, idxs=[0, 1]).prune()
    assert model(IMAGE).shape == (2, 1000)
    # The gate is as wide as what it gates is now.
    assert tuple(model.get_submodule("layer2.0.se.fc1").weight.shape) == (8, 126)


def _torchao(tool: Any, model: nn.Module) -> None:
    before = model(IMAGE)
    tool.quantize_(model, tool.Int8WeightOnlyConfig())
    assert torch.nn.functional.cosine_similarity(model(IMAGE), before).min() > 0.9


def _opacus(tool: Any, model: nn.Module) -> None:
    fixed = tool.ModuleValidator.fix(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fixed.modules())
    assert _counted(fixed) == 8


def _openvino(tool: Any, model: nn.Module) -> None:
    converted = tool.convert_model(model, example_input=IMAGE)
    compiled = tool.Core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert torch.allclose(torch.from_numpy(compiled(IMAGE.numpy())[0].copy()), model(IMAGE), atol=1e-4)


def _pt2e(tool: Any, model: nn.Module) -> None:
    """With a quantizer that asks for the linear layers, which are the classifier's and the gates'."""
    specs = tool.quantizer
    observer = importlib.import_module("torchao.quantization.pt2e").MinMaxObserver
    spec = specs.QuantizationSpec(
        dtype=torch.int8,
        observer_or_fake_quant_ctr=observer,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_affine,
    )

    class Linears(specs.Quantizer):  # type: ignore[misc, name-defined]
        def annotate(self, model: Any) -> Any:
            for node in model.graph.nodes:
                if node.target is torch.ops.aten.linear.default:
                    asked = {node.args[0]: spec, node.args[1]: spec}
                    node.meta["quantization_annotation"] = specs.QuantizationAnnotation(
                        input_qspec_map=asked, _annotated=True
                    )
            return model

        def validate(self, model: Any) -> None: ...

    before = model(IMAGE)
    exported = torch.export.export(model, (IMAGE,)).module()
    prepared = tool.quantize_pt2e.prepare_pt2e(exported, Linears())
    prepared(IMAGE)
    converted = tool.quantize_pt2e.convert_pt2e(prepared)
    linears = [node for node in converted.graph.nodes if node.target is torch.ops.aten.linear.default]
    assert len(linears) == 2 * 8 + 1
    assert all("dequantize" in str(node.args[0].target) for node in linears)
    assert torch.nn.functional.cosine_similarity(converted(IMAGE), before).min() > 0.99


TOOLS: dict[str, Callable[[Any, nn.Module], None]] = {
    "torchinfo": _torchinfo,
    "fvcore.nn": _fvcore,
    "captum.attr": _captum,
    "torch_pruning": _torch_pruning,
    "torchao.quantization": _torchao,
    "opacus.validators": _opacus,
    "openvino": _openvino,
    "torchao.quantization.pt2e": _pt2e,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TOOLS)
def test_the_attention_is_there_for_tools_of_others(name: str, form: Any) -> None:
    tool = pytest.importorskip(name)
    if name.endswith("pt2e"):
        importlib.import_module(f"{name}.quantize_pt2e")
        importlib.import_module(f"{name}.quantizer")
    model = _made(form)
    TOOLS[name](tool, model)
    assert _counted(model) == 8


@pytest.mark.parametrize("form", FORMS)
def test_what_looks_at_a_layer_wants_a_module(form: Any) -> None:
    captum = pytest.importorskip("captum.attr")
    model = _made(form)
    look = captum.LayerGradCam(model, model.get_submodule("layer4"))
    if form is attach:
        assert look.attribute(IMAGE, target=0).shape == (2, 1, 2, 2)
    else:
        # As README's table says.
        with pytest.raises(AssertionError, match="did not obtain any outputs"):
            look.attribute(IMAGE, target=0)


def test_the_tools_are_those_of_the_extra() -> None:
    missing = [name for name in TOOLS if importlib.util.find_spec(name.partition(".")[0]) is None]
    if len(missing) < len(TOOLS):
        assert not missing
