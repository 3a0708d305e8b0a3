"""An `InjectedModule` is a module like any other: copies, pickles, modes, devices, flags, attributes."""

from __future__ import annotations

import copy
import multiprocessing
import operator
import pickle
from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.utils import parametrizations

from attn_inject import (
    InjectedModule,
    PlanError,
    TraceError,
    attach,
    attention_parameters,
    attention_state_dict,
    freeze_original,
    inject,
    remove,
    verify,
)

from .. import toys
from ..before_after import check_surgery

SIZE = (3, 16, 16)


def toy(**options: Any) -> tuple[nn.Module, InjectedModule]:
    torch.manual_seed(0)
    model = toys.Toy(nn.Sequential(toys.Block(toys._iadd), toys.Block(toys._iadd, 16, 16)))
    return model, inject(model, "se", reduction=4, input_size=SIZE, **options)


@pytest.mark.parametrize("attention", ["se", "eca"])
@pytest.mark.parametrize("name", ["torchvision", "timm"])
@pytest.mark.slow
def test_resnet50_at_identity(name: str, attention: str) -> None:
    torch.manual_seed(0)
    model = (
        torchvision.models.resnet50() if name == "torchvision" else timm.create_model("resnet50", zero_init_last=False)
    )
    patched = inject(model, attention, init="identity")
    blocks = [f"layer{stage}.{i}" for stage, n in enumerate((3, 4, 6, 3), 1) for i in range(n)]
    check_surgery(model, patched, blocks=blocks, inputs=(torch.randn(1, 3, 64, 64),))
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(patched.eval()(x), model.eval()(x))
    assert patched.injection.verification.passed


@pytest.mark.slow
def test_inception_v3_with_auxiliary_head() -> None:
    torch.manual_seed(0)
    model = torchvision.models.inception_v3(init_weights=False)
    patched = inject(model, "se", init="identity")
    assert [i.site.kind for i in patched.injection.plan.insertions] == ["mixed"] * 11
    x = torch.randn(2, 3, 299, 299)
    torch.manual_seed(1)
    ours = patched.train()(x)
    torch.manual_seed(1)
    theirs = copy.deepcopy(model).train()(x)
    assert type(ours) is type(theirs)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.aux_logits, theirs.aux_logits)
    assert set(model.state_dict()) <= set(patched.state_dict())


class Remembers(toys.Block):
    """Keeps what it gave last, with its history, and in a list too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = super().forward(x)
        self.all = [self.last]
        return self.last


def test_results_that_a_model_keeps_do_not_stand_in_the_way_of_a_copy() -> None:
    model = toys.Toy(Remembers(toys._iadd)).eval()
    model(torch.randn(2, *SIZE))
    patched = inject(model, "se", reduction=4, input_size=SIZE).eval()
    kept: Any = patched.get_submodule("body")
    assert kept.last.grad_fn is not None
    copied = copy.deepcopy(patched)
    held: Any = copied.get_submodule("body")
    assert held.last is held.all[0] is kept.last
    assert held.all is not kept.all
    assert not {p.data_ptr() for p in copied.parameters()} & {p.data_ptr() for p in patched.parameters()}
    x = torch.randn(2, *SIZE)
    assert torch.equal(copied(x), patched(x))


def test_copies_and_pickles() -> None:
    model, patched = toy()
    x = torch.randn(2, *SIZE)
    for mode in (True, False):
        patched.train(mode)
        for twin in (
            copy.deepcopy(patched),
            pickle.loads(pickle.dumps(patched)),
            torch.optim.swa_utils.AveragedModel(patched),
        ):
            assert torch.equal(copy.deepcopy(twin)(x), copy.deepcopy(patched)(x))
    twin = copy.deepcopy(patched)
    with torch.no_grad():
        twin.head.weight.zero_()
    assert patched.head.weight.abs().sum() > 0
    assert twin.injection == patched.injection
    assert isinstance(copy.copy(patched), InjectedModule)
    assert model.head.weight.data_ptr() == patched.head.weight.data_ptr()


@pytest.mark.slow
def test_in_a_process_pool() -> None:
    patched = inject(torchvision.models.resnet18(), "se", input_size=(3, 32, 32)).eval().requires_grad_(False)
    x = torch.randn(2, 3, 32, 32)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert torch.allclose(pool.submit(operator.call, patched, x).result(), patched(x), atol=1e-5)


def test_modes_switch_graphs_also_from_outside() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = toys.conv(3, 8), toys.conv(8, 8)

        def forward(self, x: torch.Tensor) -> Any:
            x = self.a(x)
            x = x + F.dropout(self.b(torch.relu(x)), 0.5, self.training)
            return (x, x.mean()) if self.training else x

    model = Dropping()
    patched = inject(model, "se", reduction=2, init="identity", input_size=SIZE)
    outer = nn.Sequential(patched)
    x = torch.randn(2, *SIZE)
    for _ in range(3):
        outer.eval()
        assert torch.equal(outer(x), model.eval()(x))
        outer.train()
        torch.manual_seed(3)
        ours = outer(x)
        torch.manual_seed(3)
        theirs = model.train()(x)
        assert torch.equal(ours[0], theirs[0])
        assert len(ours) == len(theirs) == 2
    assert patched.graph is patched.graph_of("train")


def test_moves_and_casts_leave_the_original() -> None:
    model, patched = toy()
    patched.half()
    assert {p.dtype for p in patched.parameters()} == {torch.float16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    freeze_original(patched)
    assert all(p.requires_grad for p in model.parameters())
    assert sum(p.requires_grad for p in patched.parameters()) == len(list(attention_parameters(patched))) == 4
    assert set(attention_state_dict(patched)) == {f"body.{i}.se.fc{j}.weight" for i in (0, 1) for j in (1, 2)}
    patched.eval()
    assert model.training


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_new_modules_follow_the_models_dtype(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = toys.Toy(toys.Block(toys._iadd)).to(dtype).eval()
    patched = inject(model, "se", reduction=4, input_size=SIZE)
    assert {p.dtype for p in patched.parameters()} == {dtype}
    assert patched(torch.randn(1, *SIZE).to(dtype)).dtype == dtype
    assert not patched.training


def test_other_sizes_and_batches() -> None:
    model, patched = toy(init="identity")
    model.eval()
    patched.eval()
    for shape in ((1, 3, 16, 16), (5, 3, 24, 20), (3, 3, 7, 33)):
        x = torch.randn(shape)
        assert torch.equal(patched(x), model(x))


def test_attributes_flags_and_buffers_survive() -> None:
    class Plain(toys.Toy):
        kind, level = "overridden", 1

    class Rich(Plain):
        kind = "class attribute"

        def __init__(self) -> None:
            super().__init__(toys.Block(toys._iadd))
            self.num_classes, self.default_cfg = 5, {"input_size": SIZE}
            self.register_buffer("table", torch.arange(3.0), persistent=False)
            self.tied = nn.Linear(16, 5)
            self.tied.weight = self.head.weight
            self.stem.weight.requires_grad_(False)

        def extra(self) -> int:
            return self.head.in_features

        def classes(self) -> int:
            return self.num_classes

    model = Rich()
    patched = inject(model, "eca")
    assert (patched.kind, patched.num_classes, patched.default_cfg) == ("class attribute", 5, {"input_size": SIZE})
    assert patched.level == 1
    assert torch.equal(patched.table, model.table)
    assert "table" not in patched.state_dict()
    assert patched.tied.weight is patched.head.weight
    assert not patched.stem.weight.requires_grad
    assert patched.classes() == 5
    assert [loss.partition(":")[0] for loss in patched.injection.not_kept if "method" in loss] == ["method extra()"]
    with pytest.raises(AttributeError, match="attach"):
        patched.extra()


def test_timm_attributes() -> None:
    model = timm.create_model("resnet18")
    patched = inject(model, "eca", input_size=(3, 64, 64))
    assert (patched.num_classes, patched.num_features) == (model.num_classes, model.num_features)
    assert patched.default_cfg == model.default_cfg
    assert patched.feature_info == model.feature_info


def test_hooks_are_kept_or_named() -> None:
    calls = []
    model, _ = toy()
    model.stem.register_forward_hook(lambda *_: calls.append("stem"))
    model.body[0].register_forward_hook(lambda *_: calls.append("block"))
    patched = inject(model, "se", reduction=4, input_size=SIZE)
    assert calls == []
    patched(torch.randn(2, *SIZE))
    assert calls == ["stem"]
    assert any("forward hook on body.0" in loss for loss in patched.injection.not_kept)


@pytest.mark.parametrize(
    "wrap", [parametrizations.weight_norm, parametrizations.spectral_norm, torch.nn.utils.weight_norm]
)
def test_parametrized_weights(wrap: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    model = toys.Toy(toys.Block(toys._iadd))
    wrap(model.body.conv2)
    model.eval()
    patched = inject(model, "se", reduction=4, init="identity", input_size=SIZE)
    x = torch.randn(2, *SIZE)
    assert torch.equal(patched(x), model(x))
    assert set(model.state_dict()) <= set(patched.state_dict())


def test_wrappers_are_taken_off_and_others_refused() -> None:
    model, _ = toy()
    compiled: Any = torch.compile(model)
    for wrapped, named in ((nn.DataParallel(model), "DataParallel around the model"), (compiled, "torch.compile of")):
        patched = inject(wrapped, "eca", input_size=SIZE)
        assert isinstance(patched, InjectedModule)
        assert toys.gates_run(patched, torch.randn(2, *SIZE)) == 2
        assert any(loss.startswith(named) for loss in patched.injection.not_kept)
        assert any(loss.startswith(named) for loss in attach(wrapped, "eca", input_size=SIZE).injection.not_kept)
    with pytest.raises(TraceError, match="scripted"):
        inject(torch.jit.trace(model.eval(), torch.randn(1, *SIZE)), "eca", input_size=SIZE)
    with pytest.raises(TraceError, match="expected an nn.Module"):
        inject("resnet50", "eca")
    lazy = nn.Sequential(nn.LazyConv2d(8, 3, padding=1), toys.Block(toys._iadd, 8, 8))
    with pytest.raises(TraceError, match="lazy"):
        inject(lazy, "eca")
    assert inject(lazy, "eca", example_inputs=torch.randn(1, *SIZE)).injection.plan.insertions


def test_several_inputs_defaults_and_structures() -> None:
    Out = namedtuple("Out", "map flag")

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = toys.Block(toys._iadd, 3, 3)

        def forward(
            self, x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor | None = None, scale: float = 2.0
        ) -> Any:
            if mask is not None:
                x = x * mask
            return {"sum": Out(self.block(x + y) * scale, (x,))}

    model = Two().eval()
    with pytest.raises(TraceError, match="2 inputs .x, y.: pass example_inputs"):
        inject(model, "eca")
    x, y = torch.randn(2, *SIZE), torch.randn(2, *SIZE)
    patched = inject(model, "eca", init="identity", example_inputs=(x, y))
    assert torch.equal(patched(x, y)["sum"][0], model(x, y)["sum"].map)
    assert {"argument mask=None: fixed at its default", "argument scale=2.0: fixed at its default"} <= set(
        patched.injection.not_kept
    )


def test_in_place_code_keeps_its_aliasing() -> None:
    class Aliased(nn.Module):
        """The branch starts by changing the shortcut in place, as Xception's does."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = toys.conv(3, 8), toys.conv(8, 8), toys.conv(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            y = self.b(F.relu(self.a(x.relu_()), inplace=True))
            y += x
            return y.mul_(2).add_(1)

    torch.manual_seed(0)
    model = Aliased()
    for placement in ("standard", "pre", "post", "identity"):
        patched = inject(model, "se", reduction=2, init="identity", placement=placement, input_size=SIZE)
        check_surgery(model, patched, blocks=[""], inputs=(torch.randn(2, *SIZE),), same_output=True)


def test_injecting_again() -> None:
    model, _ = toy()
    first = inject(model, "se", reduction=4, include="body.0", input_size=SIZE)
    second = inject(first, "eca", input_size=SIZE)
    assert [i.module for i in second.injection.plan.insertions] == ["body.0.se", "body.1.eca"]
    with pytest.raises(PlanError, match="already has attention from an earlier injection"):
        inject(second, "se", input_size=SIZE)
    bare = remove(second)
    x = torch.randn(2, *SIZE)
    assert torch.equal(bare.eval()(x), model.eval()(x))


@pytest.mark.parametrize("options", [{}, {"placement": "post"}, {"placement": "pre"}, {"placement": "identity"}])
def test_remove_gives_the_current_weights_back(options: dict[str, Any]) -> None:
    model, patched = toy(**options)
    with torch.no_grad():
        for parameter in patched.parameters():
            parameter.add_(0.01)
    bare = remove(patched)
    x = torch.randn(2, *SIZE)
    assert torch.equal(bare.eval()(x), model.eval()(x))
    assert list(bare.state_dict()) == list(model.state_dict())


@pytest.mark.slow
def test_remove_puts_replaced_modules_back() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet50().eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(remove(inject(model, "psa", placement="replace")).eval()(x), model(x))
    model = timm.create_model("efficientnet_b0").eval()
    swapped = inject(model, "eca", existing="replace")
    assert len(swapped.injection.plan.insertions) == 16
    assert torch.equal(remove(swapped).eval()(x), model(x))
    stripped = inject(model, "none", existing="replace")
    assert not any(".se." in name for name, _ in stripped.named_parameters())


def test_verify_can_fail() -> None:
    model, patched = toy()
    assert verify(model, patched).passed
    assert [check.name for check in verify(model, patched).checks] == [
        "edits",
        "weights",
        "shapes",
        "trace",
        "finite",
        "gradients",
    ]
    harmed = copy.deepcopy(patched)
    with torch.no_grad():
        harmed.head.weight.add_(1)
    assert [c.name for c in verify(model, harmed).checks if not c.passed] == ["weights"]
    harmed = copy.deepcopy(patched)
    node = next(n for n in harmed.graph_of("eval").nodes if n.target == "body.0.se")
    node.replace_all_uses_with(node.args[0])
    harmed.graph_of("eval").erase_node(node)
    harmed.recompile()
    assert "edits" in [c.name for c in verify(model, harmed).checks if not c.passed]
    with pytest.raises(PlanError, match="is not a model that inject"):
        verify(model, model)


@pytest.mark.slow
def test_scope_patches_a_part_in_its_place() -> None:
    torch.manual_seed(0)
    detector = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=96, max_size=96
    ).eval()
    with pytest.raises(TraceError, match="backbone"):
        inject(detector, "eca")
    patched = inject(detector, "eca", scope="backbone.body", init="identity", input_size=(3, 64, 64))
    assert type(patched) is type(detector)
    assert len(patched.injection.plan.insertions) == 16
    image = [torch.rand(3, 96, 96)]
    ours, theirs = patched(image), detector(image)
    assert all(torch.equal(ours[0][key], theirs[0][key]) for key in theirs[0])
    assert "backbone.body.layer1.0.eca.conv.weight" in patched.state_dict()
    with pytest.raises(PlanError, match="did you mean backbone"):
        inject(detector, "eca", scope="backbon")


def test_random_state_is_spent_only_on_new_weights() -> None:
    model, _ = toy()
    torch.manual_seed(5)
    first = inject(model, "se", reduction=4, input_size=SIZE)
    torch.manual_seed(5)
    second = inject(model, "se", reduction=4, input_size=SIZE)
    ours, theirs = attention_state_dict(first), attention_state_dict(second)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert all(module.training for module in model.modules())


def test_no_sites_and_bad_choices_say_what_to_do() -> None:
    flat = nn.Sequential(toys.conv(3, 8), nn.ReLU(), toys.conv(8, 8))
    model, _ = toy()
    for net, options, words in (
        (flat, {}, "no sites: there are neither adds nor concats"),
        (toys.REFUSED["fusion"][1](), {}, "no sites: 1 x add both operands are nonlinear"),
        (model, {"kinds": "plain"}, "no sites of kind plain: the kinds are residual, mixed, plain"),
        (model, {"include": "layer1.*"}, "pattern 'layer1.*' matches no block"),
        (model, {"stages": 4}, "the stages with sites are 0"),
        (model, {"placement": "standart"}, "did you mean standard"),
        (model, {"init": "zero"}, "init must be one of paper, identity"),
        (model, {"kinds": ("residul",)}, "kinds are residual, mixed, plain, stage"),
        (model, {"placement": "replace"}, "needs a block with one spatial convolution, and this one has 2"),
        (model, {"existing": "skip", "min_channels": 99}, "none of the 2 sites is left after the filters"),
        (model, {"preset": "ecanet"}, "preset ecanet sets ECA's kernel sizes"),
        (model, {"name": "a.b"}, "name must be an attribute name"),
    ):
        with pytest.raises(PlanError, match="^[^\n]+$") as caught:
            inject(net, "se", input_size=SIZE, **({"reduction": 4} | options))
        assert words in str(caught.value)


class OwnNorm(nn.BatchNorm2d):
    """A batch norm of somebody's own; torch's `forward` asks for the input's rank, which no trace can answer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * super().forward(x)


def test_a_layer_of_somebodys_own_stays_whole_where_it_cannot_be_traced() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Conv2d(3, 16, 1), OwnNorm(16), nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.a(x))
            return x + self.b(torch.relu(self.norm(x)))

    model = Net()
    patched = inject(model, "se", init="identity", input_size=(3, 8, 8))
    assert len(patched.injection.plan.insertions) == 1
    x = torch.randn(2, 3, 8, 8)
    for mode in (True, False):
        twin = copy.deepcopy(model).train(mode)
        assert torch.equal(patched.train(mode)(x), twin(x))
