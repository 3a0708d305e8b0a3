"""What other tools make of both forms: the attention is still there and does what it did, or there is a sentence."""

from __future__ import annotations

import copy
import io
import multiprocessing
import operator
import pickle
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import fx, nn
from torch.ao.quantization import get_default_qconfig_mapping, quantize_dynamic
from torch.ao.quantization.quantize_fx import prepare_fx
from torch.fx.experimental.optimization import fuse
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from attn_inject import attach, inject
from attn_inject.attention.gating import ChannelGate

FORMS = [inject, attach]
IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def _made(form: Any, name: str = "resnet18") -> tuple[nn.Module, nn.Module]:
    """(a model, the same with attention that does something)."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name).eval()
    return model, form(model, "se", input_size=64).eval()


def _gates(model: nn.Module) -> list[ChannelGate]:
    return [module for module in model.modules() if isinstance(module, ChannelGate)]


def _runs(model: nn.Module) -> int:
    """How often a gate runs in one pass."""
    ran: list[nn.Module] = []
    handles = [gate.register_forward_hook(lambda module, *_: ran.append(module)) for gate in _gates(model)]
    with torch.no_grad():
        model(IMAGE)
    for handle in handles:
        handle.remove()
    return len(ran)


def _through_a_file(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _split(model: nn.Module) -> Any:
    graph = model if isinstance(model, fx.GraphModule) else fx.symbolic_trace(model)
    order = {node: number for number, node in enumerate(graph.graph.nodes)}
    return fx.passes.split_module.split_module(graph, model, lambda node: int(order[node] > len(order) // 2))


def _replicated(model: nn.Module) -> Any:
    parameters, buffers = torch.func.stack_module_state([copy.deepcopy(model) for _ in range(2)])
    base = copy.deepcopy(model).to("meta")

    def one(parameters: Any, buffers: Any) -> Any:
        return torch.func.functional_call(base, (parameters, buffers), (IMAGE,))

    return lambda _: torch.vmap(one)(parameters, buffers)[1]


SAME: dict[str, Callable[[nn.Module], Any]] = {
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save of the whole": _through_a_file,
    "SyncBatchNorm": lambda model: nn.SyncBatchNorm.convert_sync_batchnorm(model).eval(),
    "timm.utils.freeze": lambda model: (timm.utils.freeze(model), model)[1],  # type: ignore[attr-defined]
    "fx.symbolic_trace": fx.symbolic_trace,
    "fusing of convolutions and norms": lambda model: fuse(model.eval()),
    "split_module": _split,
    "torch.jit.script": torch.jit.script,
    "torch.jit.trace": lambda model: torch.jit.trace(model, IMAGE),
    "torch.compile": lambda model: torch.compile(model, backend="eager", fullgraph=True),
    "torch.export": lambda model: torch.export.export(model, (IMAGE,)).module(),
    "stack_module_state": _replicated,
    "double and back": lambda model: model.double().float(),
}


QUICK = ("copy.deepcopy", "pickle", "SyncBatchNorm", "fx.symbolic_trace", "torch.jit.script")


@pytest.mark.parametrize("tool", [t if t in QUICK else pytest.param(t, marks=pytest.mark.zoo) for t in SAME])
@pytest.mark.parametrize("form", FORMS)
def test_what_keeps_the_function(form: Any, tool: str) -> None:
    model, patched = _made(form)
    before = patched(IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = SAME[tool](patched)
        if tool == "SyncBatchNorm":
            # It runs on GPUs only.
            assert sum(isinstance(module, nn.SyncBatchNorm) for module in made.modules()) == 20
            made = _of_one_process(made)
        after = made(IMAGE)
    assert torch.allclose(after, before, atol=1e-4)
    assert not torch.allclose(after, model(IMAGE), atol=1e-4)


def _of_one_process(model: nn.Module) -> nn.Module:
    """The same with plain norms in the places of synchronised ones, as somebody may put anything there."""
    for home in list(model.modules()):
        for name, child in home.named_children():
            if isinstance(child, nn.SyncBatchNorm):
                plain = nn.BatchNorm2d(child.num_features).eval()
                plain.load_state_dict(child.state_dict())
                setattr(home, name, plain)
    return model


@pytest.mark.zoo
@pytest.mark.parametrize("form", FORMS)
def test_what_changes_the_function_keeps_the_attention(form: Any) -> None:
    _, patched = _made(form)
    layers = 2 * len(_gates(patched))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observed = prepare_fx(copy.deepcopy(patched), get_default_qconfig_mapping(), (IMAGE,))
        dynamic = quantize_dynamic(copy.deepcopy(patched))
    called = [str(node.target) for node in observed.graph.nodes if node.op == "call_module"]
    assert sum(".se.fc" in name and "activation_post_process" not in name for name in called) == layers
    assert torch.allclose(observed(IMAGE), patched(IMAGE), atol=1e-4)
    assert _runs(dynamic) == len(_gates(patched))
    features = create_feature_extractor(patched, {_last_map(patched): "map"})
    assert features(IMAGE)["map"].shape == (2, 512, 2, 2)
    called = [str(node.target) for node in features.graph.nodes if node.op == "call_module"]
    assert sum(".se.fc" in name for name in called) == layers


def _last_map(model: nn.Module) -> str:
    """The name of the node before the last pool."""
    names = get_graph_node_names(model)[1]
    return names[names.index("avgpool") - 1]


def test_what_is_attached_can_be_sliced_hooked_and_run_in_parts() -> None:
    _, attached = _made(attach)
    gates = len(_gates(attached))
    assert _runs(nn.Sequential(*list(attached.children())[:-2])) == gates
    maps: list[torch.Tensor] = []
    attached.get_submodule("layer4").register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    attached.get_submodule("layer4.1.bn2").register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    attached(IMAGE)
    assert [tuple(each.shape) for each in maps] == [(2, 512, 2, 2)] * 2
    block: Any = attached.get_submodule("layer1.0")
    bare: Any = torchvision.models.resnet18().layer1[0]
    assert isinstance(block, type(bare))
    assert (type(block).__name__, type(block).__module__) == (type(bare).__name__, type(bare).__module__)
    x = torch.randn(1, 64, 8, 8)
    before = block(x)
    block.bn2 = nn.Identity()
    assert not torch.equal(block(x), before)
    with torch.no_grad():
        block.se.fc2.weight.fill_(-1e4)
    assert torch.equal(block(x), torch.relu(x))


@pytest.mark.zoo
@pytest.mark.parametrize("form", FORMS)
def test_process_pools_take_both_forms(form: Any) -> None:
    _, patched = _made(form)
    patched.requires_grad_(requires_grad=False)
    # What the other process runs must be what it can import, or the pool breaks.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        given = pool.submit(operator.call, patched, IMAGE).result(timeout=300)
    assert torch.allclose(given, patched(IMAGE), atol=1e-4)


@pytest.mark.zoo
def test_networks_whose_blocks_have_other_forms_script() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("mobilenet_v2", "squeezenet1_1"):
            for form in FORMS:
                _, patched = _made(form, name)
                assert torch.equal(torch.jit.script(patched)(IMAGE), patched(IMAGE))
