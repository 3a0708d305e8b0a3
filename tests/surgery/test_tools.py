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
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import timm
import torch
import torchvision
from timm.layers.norm_act import convert_sync_batchnorm as convert_timms
from torch import fx, nn
from torch.ao.quantization import get_default_qconfig_mapping, quantize_dynamic
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.distributed.fsdp import fully_shard
from torch.fx.experimental.optimization import fuse
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from attn_inject import PlanError, attach, inject
from attn_inject.attention.gating import ChannelGate
from tests.one_process import group, mesh

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


def _by_onnx(model: nn.Module, *, dynamo: bool) -> Any:
    file = io.BytesIO()
    if dynamo:
        program = torch.onnx.export(model, (IMAGE,), dynamo=True, verbose=False)
        assert program is not None
        program.save(file)
    else:
        torch.onnx.export(model, (IMAGE,), file, dynamo=False)
    session = onnxruntime.InferenceSession(file.getvalue())
    (name,) = (each.name for each in session.get_inputs())
    return lambda image: torch.from_numpy(session.run(None, {name: image.numpy()})[0])


SAME: dict[str, Callable[[nn.Module], Any]] = {
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save of the whole": _through_a_file,
    "convert_sync_batchnorm": lambda model: nn.SyncBatchNorm.convert_sync_batchnorm(model).eval(),
    "timm.utils.freeze": lambda model: (timm.utils.freeze(model), model)[1],  # type: ignore[attr-defined]
    "fx.symbolic_trace": fx.symbolic_trace,
    "fusing of convolutions and norms": lambda model: fuse(model.eval()),
    "split_module": _split,
    "torch.jit.script": torch.jit.script,
    "torch.jit.trace": lambda model: torch.jit.trace(model, IMAGE),
    "torch.compile": lambda model: torch.compile(model, backend="eager", fullgraph=True),
    "torch.export": lambda model: torch.export.export(model, (IMAGE,)).module(),
    "stack_module_state": _replicated,
    "ONNX from the exported program": lambda model: _by_onnx(model, dynamo=True),
    "ONNX from TorchScript": lambda model: _by_onnx(model, dynamo=False),
    "double and back": lambda model: model.double().float(),
}


# Those that have tests of their own below.
OTHERS = (
    *("process pools", "DistributedDataParallel", "fully_shard(model)", "fully_shard(block)"),
    *("prepare_fx", "convert_fx", "quantize_dynamic", "create_feature_extractor"),
)


@pytest.mark.parametrize("tool", [*SAME, *OTHERS])
def test_each_tool_stands_once_in_the_readmes_table(tool: str) -> None:
    readme = Path(__file__).parents[2].joinpath("README.md").read_text()
    _, _, table = readme.partition("| tool | graph | module |\n")
    rows = [line.split("|")[1].replace("`", "") for line in table.partition("\n\n")[0].splitlines()]
    assert sum(row.count(tool) for row in rows) == 1


QUICK = ("copy.deepcopy", "pickle", "convert_sync_batchnorm", "fx.symbolic_trace", "torch.jit.script")


@pytest.mark.slow
@pytest.mark.parametrize("tool", [t if t in QUICK else pytest.param(t, marks=pytest.mark.zoo) for t in SAME])
@pytest.mark.parametrize("form", FORMS)
def test_what_keeps_the_function(form: Any, tool: str) -> None:
    model, patched = _made(form)
    before = patched(IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = SAME[tool](patched)
        if tool == "convert_sync_batchnorm":
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
                plain = nn.BatchNorm2d(child.num_features, child.eps, child.momentum).eval()
                plain.load_state_dict(child.state_dict())
                setattr(home, name, plain)
    return model


@pytest.mark.zoo
@pytest.mark.parametrize("form", FORMS)
def test_what_changes_the_function_keeps_the_attention(form: Any) -> None:
    model, patched = _made(form)
    layers = 2 * len(_gates(patched))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observed = prepare_fx(copy.deepcopy(patched), get_default_qconfig_mapping(), (IMAGE,))
        dynamic = quantize_dynamic(copy.deepcopy(patched))
    called = [str(node.target) for node in observed.graph.nodes if node.op == "call_module"]
    assert sum(".se.fc" in name and "activation_post_process" not in name for name in called) == layers
    assert torch.allclose(observed(IMAGE), patched(IMAGE), atol=1e-4)
    assert _runs(dynamic) == len(_gates(patched))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = convert_fx(observed)  # it has seen the image just now
    called = [str(node.target) for node in quantized.graph.nodes if node.op == "call_module"]
    assert sum(".se.fc" in name for name in called) == layers
    with torch.no_grad():
        ours, exact, plain = (each(IMAGE) for each in (quantized, patched, model))
    # Eight bits cost 0.035 with and without attention; without the gates it would be 3.6.
    assert (ours - exact).norm() <= 0.1 * exact.norm() <= (plain - exact).norm()
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


def _narrow_vgg16() -> nn.Module:
    model = torchvision.models.vgg16(init_weights=False)
    model.classifier = nn.Sequential(nn.Linear(512 * 7 * 7, 10))
    return model


# What people do with models, on networks whose gates lie in other places: a name that the class knows, channels last,
# a plain Sequential, a concat, a scope within a whole that is not called, code that decides on data.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "resnet18": (torchvision.models.resnet18, {}),
    "mobilenetv2_100": (lambda: timm.create_model("mobilenetv2_100"), {"min_width": 2}),
    "convnext_atto": (lambda: timm.create_model("convnext_atto", ls_init_value=1.0), {}),
    # Its two wide layers alone would take most of the time that this file takes.
    "vgg16": (_narrow_vgg16, {"kinds": ("stage",)}),
    "inception_v3": (lambda: torchvision.models.inception_v3(init_weights=False), {}),
    "deeplabv3_resnet50": (
        lambda: torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None),
        {},
    ),
    "fasterrcnn": (
        lambda: torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None),
        {},
    ),
}


def _large() -> torch.Tensor:
    return torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))


def _given(model: nn.Module) -> list[torch.Tensor]:
    with torch.no_grad():
        return [x for x in torch.utils._pytree.tree_leaves(model(_input_of(model))) if isinstance(x, torch.Tensor)]


def _input_of(model: nn.Module) -> Any:
    # Detectors take images in a list.
    return [_large()[0]] if hasattr(model, "roi_heads") else _large()


def _same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    # Random networks give numbers of any size.
    sizes = [float(b.abs().max()) if b.numel() else 0.0 for b in theirs]
    return len(ours) == len(theirs) and all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-4 * size) for a, b, size in zip(ours, theirs, sizes, strict=True)
    )


def _blocks_with_gates(model: nn.Module) -> set[str]:
    return {path.rpartition(".")[0] for path, module in model.named_modules() if isinstance(module, ChannelGate)}


def _counted(model: nn.Module) -> int:
    ran: list[nn.Module] = []
    handles = [gate.register_forward_hook(lambda module, *_: ran.append(module)) for gate in _gates(model)]
    _given(model)
    for handle in handles:
        handle.remove()
    return len(ran)


@pytest.mark.zoo
@pytest.mark.parametrize("name", NETWORKS)
def test_what_people_do_with_what_was_attached(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, choices = NETWORKS[name]
    model = make().eval()
    attached: Any = attach(model, "se", **choices).eval()
    gates, before = len(_gates(attached)), _given(attached)
    assert gates == len(attached.injection.plan.insertions)
    assert _counted(attached) == gates
    for made in (copy.deepcopy(attached), pickle.loads(pickle.dumps(attached)), _through_a_file(attached)):
        assert _counted(made) == gates
        assert _same(_given(made), before)
    # timm's norms hold an activation, which torch's own conversion drops.
    convert = convert_timms if "_" in name else nn.SyncBatchNorm.convert_sync_batchnorm
    converted = convert(copy.deepcopy(attached)).eval()
    assert _counted(converted) == gates
    assert _same(_given(converted), before)
    if name == "fasterrcnn":
        for each in (model, attached):
            with pytest.raises(fx.proxy.TraceError):
                fx.symbolic_trace(each)
    else:
        assert _same(_given(fx.symbolic_trace(attached)), before)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "convnext_atto":
            with pytest.raises(PlanError, match=r"^this Mlp calls attention that the block around it holds"):
                torch.jit.script(attached)
            given = _given(torch.jit.script(inject(model, "se", **choices).eval()))
            assert len(given) == len(before)
        else:
            given = torch.jit.script(attached)(_input_of(attached))
            # Scripts give in a tuple what training adds.
            found = [x for x in torch.utils._pytree.tree_leaves(given) if isinstance(x, torch.Tensor)]
            assert _same(found[: len(before)], before)
    with group(tmp_path):
        sharded = copy.deepcopy(attached)
        for path in _blocks_with_gates(sharded) - {""}:
            fully_shard(sharded.get_submodule(path), mesh=mesh())
        fully_shard(sharded, mesh=mesh())
        assert _counted(sharded) == gates
        assert _same(_given(sharded), before)
    # Hooked: each block that holds a gate is called, and sees it.
    blocks = _blocks_with_gates(attached)
    called: list[str] = []
    for path in blocks:
        attached.get_submodule(path).register_forward_hook(lambda *_, path=path: called.append(path))
    _given(attached)
    assert set(called) == blocks


@pytest.mark.zoo
def test_slices_of_what_was_attached_hold_their_gates() -> None:
    torch.manual_seed(0)
    attached: Any = attach(_narrow_vgg16().eval(), "se", kinds=("stage",))
    # The third of the gates is the sixteenth element before it, two elements later.
    names = list(dict(attached.features.named_children()))
    until = names.index("se3") + 1
    first = attached.features[:until]
    assert len(_gates(first)) == 3
    assert torch.equal(attached.features[until:](first(_large())), attached.features(_large()))
    inception: Any = attach(torchvision.models.inception_v3(init_weights=False).eval(), "se")
    ran: list[nn.Module] = []
    for gate in _gates(inception):
        gate.register_forward_hook(lambda module, *_: ran.append(module))
    inception.Mixed_5b(torch.randn(1, 192, 8, 8))
    assert ran == [inception.Mixed_5b.se]
    lab: Any = attach(
        torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None).eval(), "se"
    )
    assert len(_gates(lab.backbone)) == 16
    with torch.no_grad():
        assert set(lab.backbone(_large())) == {"out"}
    for name, last in (("mobilenetv2_100", -2), ("convnext_atto", -1)):
        make, choices = NETWORKS[name]
        attached = attach(make().eval(), "se", **choices)
        body = nn.Sequential(*list(attached.children())[:last])
        assert _counted(body) == len(_gates(attached))
    make, choices = NETWORKS["fasterrcnn"]
    detector: Any = attach(make().eval(), "se", **choices)
    assert _counted(detector.backbone) == len(_gates(detector))


@pytest.mark.zoo
@pytest.mark.parametrize("form", FORMS)
def test_blocks_are_sharded_where_blocks_are_called(form: Any, tmp_path: Path) -> None:
    _, patched = _made(form)
    before = patched(IMAGE)
    with group(tmp_path):
        meeting = mesh()
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            for block in patched.get_submodule(stage).children():
                fully_shard(block, mesh=meeting)
        fully_shard(patched, mesh=meeting)
        if form is inject:
            with pytest.raises(PlanError, match=r"never calls its blocks.*or use attach\(\)"):
                patched(IMAGE)
            return
        assert _runs(patched) == len(_gates(patched))
        assert torch.allclose(patched(IMAGE), before, atol=1e-5)
        patched.train()(IMAGE).square().mean().backward()
        assert all(parameter.grad is not None for parameter in patched.parameters())


@pytest.mark.zoo
@pytest.mark.parametrize("wrap", [DistributedDataParallel, lambda model: fully_shard(model, mesh=mesh())])
@pytest.mark.parametrize("form", FORMS)
def test_the_whole_is_distributed_in_both_forms(form: Any, wrap: Any, tmp_path: Path) -> None:
    _, patched = _made(form)
    before = patched(IMAGE)
    with group(tmp_path):
        wrapped = wrap(patched)
        assert _runs(wrapped) == len(_gates(wrapped)) == 8
        assert torch.allclose(wrapped(IMAGE), before, atol=1e-5)
        wrapped.train()(IMAGE).square().mean().backward()
        assert all(parameter.grad is not None for parameter in wrapped.parameters())
