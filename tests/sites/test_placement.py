"""Where an attention stands for each placement and block shape, against the block's forward written out with it.

Each block is a function of its layers, its input and `At`, which says for each point whether the gate stands there.
With no gate it is the block that is patched; with the patched network's own module as the gate, it is what must come
out.
The points are those of the SE paper's Tables 14 and 15 (arXiv 1709.01507) and of EPSANet (arXiv 2105.14447).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_inject import InjectedModule, PlanError, inject
from attn_inject.sites.placement import Edit, _is_in_place, after_activation, edit_for

from ..toys import Lambda, Toy, conv
from .graphs import Net, analysed, read, read_on

PLACEMENTS = ("standard", "pre", "post", "identity", "conv3x3", "replace")
SIZE = (3, 16, 16)


class At:
    """Puts `gate` at the point called `placement`, and nothing anywhere else."""

    def __init__(self, placement: str = "", gate: nn.Module | None = None) -> None:
        self.placement, self.gate = placement, gate
        self.used = 0

    def __call__(self, point: str, value: torch.Tensor, axis: int = 1) -> torch.Tensor:
        if point != self.placement or self.gate is None:
            return value
        self.used += 1
        return self.gate(value.movedim(axis, 1)).movedim(1, axis)

    def convolution(self, m: Lambda, name: str, value: torch.Tensor) -> torch.Tensor:
        """The block's one spatial convolution, which is not there any more once it is replaced."""
        if self.placement == "replace" and self.gate is not None:
            self.used += 1
            return self.gate(value)
        return self("conv3x3", m.get_submodule(name)(value))


Block = Callable[[Lambda, torch.Tensor, At], torch.Tensor]
relu = torch.relu


def _norms(**widths: int) -> dict[str, nn.Module]:
    return {name: nn.BatchNorm2d(width) for name, width in widths.items()}


def basic(m: Lambda, x: torch.Tensor, at: At) -> torch.Tensor:
    y = m.n2(m.c2(relu(m.n1(m.c1(at("pre", x))))))
    return at("post", relu(at("standard", y) + at("identity", m.project(x))))


def bottleneck(m: Lambda, x: torch.Tensor, at: At) -> torch.Tensor:
    y = relu(m.n1(m.c1(at("pre", x))))
    y = m.n3(m.c3(relu(m.n2(at.convolution(m, "c2", y)))))
    return at("post", relu(at("standard", y) + at("identity", m.project(x))))


def inverted(m: Lambda, x: torch.Tensor, at: At) -> torch.Tensor:
    """MobileNetV2: no activation after the add."""
    y = F.relu6(m.n1(m.c1(at("pre", x))))
    y = m.n3(m.c3(F.relu6(m.n2(at.convolution(m, "c2", y)))))
    return at("post", at("identity", x) + at("standard", y))


def preact_basic(m: Lambda, x: torch.Tensor, at: At) -> torch.Tensor:
    y = m.c2(relu(m.n2(m.c1(relu(m.n1(at("pre", x)))))))
    return at("post", at("standard", y) + at("identity", x))


def preact_bottleneck(m: Lambda, x: torch.Tensor, at: At) -> torch.Tensor:
    """With a projection of the activated input (He et al. 2016): branch and shortcut part after the activation."""
    activated = relu(m.n1(x))
    y = relu(m.n2(m.c1(at("pre", activated))))
    y = m.c3(relu(m.n3(at.convolution(m, "c2", y))))
    return at("post", at("standard", y) + at("identity", m.project(activated)))


def preact_in_place(m: Lambda, x: torch.Tensor, at: At) -> torch.Tensor:
    """The activation changes what the shortcut reads: only the branch may see the gate."""
    x = F.relu(m.n0(x), inplace=False) - 0.1
    y = m.c2(relu(m.c1(at("pre", F.relu(x, inplace=True)))))
    return at("post", at("standard", y) + at("identity", x))


def norm_free(m: Lambda, x: torch.Tensor, at: At) -> torch.Tensor:
    """NFNet: scaled activation first; a learned gain and a scalar one last, which stay after the gate."""
    out = F.silu(at("pre", x)) * 0.9
    out = F.silu(m.c1(out))
    out = m.c3(F.silu(at.convolution(m, "c2", out)))
    out = at("standard", out)
    out = out * m.skip_gain
    return at("post", out * 0.2 + at("identity", x))


def norm_free_projected(m: Lambda, x: torch.Tensor, at: At) -> torch.Tensor:
    """Its first block of a stage: the shortcut projects the activated input."""
    out = F.silu(x) * 0.9
    shortcut = m.project(out)
    out = F.silu(m.c1(at("pre", out)))
    out = m.c3(F.silu(at.convolution(m, "c2", out)))
    out = at("standard", out)
    out = out * m.skip_gain
    return at("post", out * 0.2 + at("identity", shortcut))


def convnext(m: Lambda, x: torch.Tensor, at: At) -> torch.Tensor:
    """Channels last from the norm to the layer scale, which stays after the gate."""
    y = at.convolution(m, "c2", at("pre", x)).permute(0, 2, 3, 1)
    y = m.fc2(F.gelu(m.fc1(m.norm(y))))
    y = m.gamma * at("standard", y, -1)
    return at("post", at("identity", x) + y.permute(0, 3, 1, 2))


def convnext_added_last(m: Lambda, x: torch.Tensor, at: At) -> torch.Tensor:
    """The add itself is channels last."""
    x = x.permute(0, 2, 3, 1)
    y = at.convolution(m, "c2", at("pre", x, -1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    y = m.gamma * at("standard", m.fc2(F.gelu(m.fc1(m.norm(y)))), -1)
    return at("post", at("identity", x, -1) + y, -1).permute(0, 3, 1, 2)


def inception_resnet(m: Lambda, x: torch.Tensor, at: At) -> torch.Tensor:
    """Parallel branches, a linear projection, a scalar gain; one gate on the input for all branches."""
    entry = at("pre", x)
    y = torch.cat([relu(m.a(entry)), relu(m.b2(relu(m.b1(entry))))], 1)
    y = at("standard", m.project(y))
    return at("post", relu(y * 0.17 + at("identity", x)))


@dataclass(frozen=True)
class Shape:
    block: Block
    layers: Callable[[], dict[str, nn.Module]]
    out: int = 16
    refused: tuple[str, ...] = ()


class Layers(Lambda):
    """A `Lambda` with parameters of its own."""

    def __init__(self, block: Block, layers: dict[str, nn.Module]) -> None:
        super().__init__(lambda m, x: block(m, x, At()), **layers)
        self.gamma = nn.Parameter(torch.rand(16) + 0.5)
        self.skip_gain = nn.Parameter(torch.tensor(0.7))


def _bottleneck(width: int = 8, out: int = 24, stride: int = 2) -> dict[str, nn.Module]:
    return {
        "c1": conv(16, width, 1), "c2": conv(width, width, s=stride), "c3": conv(width, out, 1),
        "project": conv(16, out, 1, stride),
    }  # fmt: skip


def _convnext() -> dict[str, nn.Module]:
    depthwise = nn.Conv2d(16, 16, 7, padding=3, groups=16)
    return {"c2": depthwise, "norm": nn.LayerNorm(16), "fc1": nn.Linear(16, 64), "fc2": nn.Linear(64, 16)}


TWO_SPATIAL = ("conv3x3", "replace")
SHAPES = {
    "basic": Shape(
        basic,
        lambda: {"c1": conv(16, 16), "c2": conv(16, 16), "project": nn.Identity(), **_norms(n1=16, n2=16)},
        refused=TWO_SPATIAL,
    ),
    "basic, projected": Shape(
        basic,
        lambda: {"c1": conv(16, 24, s=2), "c2": conv(24, 24), "project": conv(16, 24, 1, 2), **_norms(n1=24, n2=24)},
        24,
        TWO_SPATIAL,
    ),
    "bottleneck": Shape(
        bottleneck, lambda: {**_bottleneck(8, 16, 1), "project": nn.Identity(), **_norms(n1=8, n2=8, n3=16)}
    ),
    "bottleneck, projected": Shape(bottleneck, lambda: {**_bottleneck(), **_norms(n1=8, n2=8, n3=24)}, 24),
    "inverted residual": Shape(
        inverted,
        lambda: {
            "c1": conv(16, 48, 1),
            "c2": nn.Conv2d(48, 48, 3, 1, 1, groups=48),
            "c3": conv(48, 16, 1),
            **_norms(n1=48, n2=48, n3=16),
        },
    ),
    "pre-activated, basic": Shape(
        preact_basic, lambda: {"c1": conv(16, 16), "c2": conv(16, 16), **_norms(n1=16, n2=16)}, refused=TWO_SPATIAL
    ),
    "pre-activated, bottleneck": Shape(preact_bottleneck, lambda: {**_bottleneck(), **_norms(n1=16, n2=8, n3=8)}, 24),
    "pre-activated in place": Shape(
        preact_in_place, lambda: {"c1": conv(16, 16), "c2": conv(16, 16), **_norms(n0=16)}, refused=TWO_SPATIAL
    ),
    "norm-free": Shape(norm_free, lambda: _bottleneck(8, 16, 1)),
    "norm-free, projected": Shape(norm_free_projected, _bottleneck, 24),
    "ConvNeXt": Shape(convnext, _convnext),
    "ConvNeXt, added channels last": Shape(convnext_added_last, _convnext),
    "Inception-ResNet": Shape(
        inception_resnet,
        lambda: {"a": conv(16, 8, 1), "b1": conv(16, 8), "b2": conv(8, 8), "project": conv(16, 16, 1)},
        refused=TWO_SPATIAL,
    ),
}


def _model(shape: Shape) -> Toy:
    torch.manual_seed(0)
    return Toy(Layers(shape.block, shape.layers()), out=shape.out)


def _expected(patched: InjectedModule, shape: Shape, at: At, x: torch.Tensor) -> torch.Tensor:
    """`Toy.forward` with the block written out."""
    return patched.head(shape.block(patched.body, relu(patched.stem(x)), at).flatten(2).mean(2))


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", SHAPES)
def test_the_gate_stands_where_the_paper_has_it(name: str, placement: str) -> None:
    shape = SHAPES[name]
    model = _model(shape)
    attention, options = ("psa", {}) if placement == "replace" else ("se", {"reduction": 2})
    if placement in shape.refused:
        number = "2" if name != "Inception-ResNet" else r"\d"
        with pytest.raises(PlanError, match=f"placement {placement} needs .*one spatial convolution, .* has {number}"):
            inject(model, attention, placement=placement, input_size=SIZE, **options)
        return
    patched = inject(model, attention, placement=placement, input_size=SIZE, **options)
    (insertion,) = patched.injection.plan.insertions
    x = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for mode in (False, True):
            patched.train(mode)
            at = At(placement, patched.get_submodule(insertion.module))
            assert torch.equal(patched(x), _expected(patched, shape, at, x))
            assert at.used == 1
            assert not torch.allclose(patched(x), model.train(mode)(x), atol=1e-4)


def test_a_gate_in_another_place_is_seen() -> None:
    """The comparison above can fail: no two placements of a bottleneck give the same output."""
    shape = SHAPES["bottleneck"]
    patched = inject(_model(shape), "se", placement="standard", reduction=2, input_size=SIZE).eval()
    gate = patched.get_submodule(patched.injection.plan.insertions[0].module)
    x = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(1))
    for elsewhere in ("pre", "post", "identity"):
        assert not torch.allclose(patched(x), _expected(patched, shape, At(elsewhere, gate), x), atol=1e-4)


class Vgg(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            conv(3, 16), nn.ReLU(), nn.MaxPool2d(2), conv(16, 16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(256, 5),
        )  # fmt: skip


def _dense() -> nn.Module:
    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([x, m.a(relu(x))], 1)
        return torch.cat([x, m.b(relu(x))], 1)

    return Toy(Lambda(run, a=conv(16, 16), b=conv(32, 16)), out=48)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("make", [Vgg, _dense])
def test_networks_without_a_skip_add_have_no_such_place(make: Callable[[], nn.Module], placement: str) -> None:
    with pytest.raises(
        PlanError, match="no sites: .*kinds='stage' gates the network's resolutions instead|no sites: .*"
    ):
        inject(make(), "se", placement=placement, reduction=2, input_size=SIZE)
    if placement != "standard":
        with pytest.raises(PlanError, match=f"placement {placement} needs a residual block, and this is a stage site"):
            inject(make(), "se", placement=placement, kinds=("stage",), reduction=2, input_size=SIZE)


@pytest.mark.parametrize("placement", PLACEMENTS[1:])
def test_a_concat_has_no_place_but_its_own(placement: str) -> None:
    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([relu(m.a(x)), relu(m.b(x))], 1)

    model = Toy(Lambda(run, a=conv(16, 8, 1), b=conv(16, 8)))
    with pytest.raises(PlanError, match=f"placement {placement} needs a residual block, and this is a mixed site"):
        inject(model, "se", placement=placement, reduction=2, input_size=SIZE)


def test_what_cannot_stand_for_a_convolution_says_so() -> None:
    """SE keeps the shape, so it cannot take the place of a strided convolution."""
    with pytest.raises(
        PlanError, match="se cannot take the place of body.c2: it has no out_channels and no stride option"
    ):
        inject(_model(SHAPES["bottleneck, projected"]), "se", placement="replace", reduction=2, input_size=SIZE)


def test_blocks_that_have_the_place_get_it_and_the_others_are_named() -> None:
    """A network of a bottleneck and a basic block: one site, and a note on the other."""
    torch.manual_seed(0)

    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        return m.second(m.first(x))

    first, second = (Layers(SHAPES[name].block, SHAPES[name].layers()) for name in ("bottleneck", "basic"))
    model = Toy(Lambda(run, first=first, second=second))
    patched = inject(model, "se", placement="conv3x3", reduction=2, input_size=SIZE)
    assert [insertion.site.block for insertion in patched.injection.plan.insertions] == ["body.first"]
    assert (
        "body.second: placement conv3x3 needs a block with one spatial convolution" in patched.injection.plan.notes[0]
    )


def _branch(m: Net, x: torch.Tensor) -> torch.Tensor:
    return m.b(relu(m.a(x)))


def _grouped(m: Net, x: torch.Tensor) -> torch.Tensor:
    """A pre-activated block of parallel branches: several nodes read the fork, the shortcut among them."""
    x = m.stem(x)
    return x + m.p(torch.cat([m.a(x), relu(m.b(x))], 1))


def _bent_after(m: Net, x: torch.Tensor) -> torch.Tensor:
    return relu(x + _branch(m, x))


def _read_twice(m: Net, x: torch.Tensor) -> torch.Tensor:
    y = x + _branch(m, x)
    return torch.cat([relu(y), y], 2)


def _pooled_after(m: Net, x: torch.Tensor) -> torch.Tensor:
    return m.pool(x + _branch(m, x))


def _shortcut_of_unknown_axis(m: Net, x: torch.Tensor) -> torch.Tensor:
    y = m.stem(x)
    mixed = y @ y
    return mixed + m.b(relu(m.a(mixed)))


def _functional(m: Net, x: torch.Tensor) -> torch.Tensor:
    return x + F.conv2d(relu(m.p1(x)), m.w, padding=1)


def _in_place_first(m: Net, x: torch.Tensor) -> torch.Tensor:
    x = m.stem(x)
    return x + m.b(m.act(x))


UNKNOWN = "needs a value whose channel axis is known, and that of {} is not"
EDITS: dict[str, tuple[Callable[[Net, torch.Tensor], torch.Tensor], dict[str, tuple[Any, ...] | str]]] = {
    # net -> for each placement (the gated value, its readers, what is replaced) or why there is none
    "block": (
        lambda m, x: x + 0.5 * _branch(m, x),
        {
            "standard": ("b", None, None),
            "pre": ("x", ["a"], None),
            "post": ("add", None, None),
            "identity": ("x", ["add"], None),
            "conv3x3": "needs a block with one spatial convolution, and this one has 2",
            "replace": "needs a block with one spatial convolution, and this one has 2",
        },
    ),
    "one spatial convolution": (
        lambda m, x: x + m.b(relu(m.p1(x))),
        {"conv3x3": ("b", None, None), "replace": ("relu", None, "b")},
    ),
    "no spatial convolution": (
        lambda m, x: x + m.p1(relu(m.p1(x))),
        {"conv3x3": "needs a block with one spatial convolution, and this one has 0"},
    ),
    "activation after the add": (_bent_after, {"post": ("relu_1", None, None), "identity": ("x", ["add"], None)}),
    "an add with two readers": (_read_twice, {"post": ("add", None, None)}),
    "a pool after the add": (_pooled_after, {"post": ("add", None, None)}),
    "several entries": (_grouped, {"pre": ("stem", ["a", "b"], None)}),
    "unknown channels": (
        _shortcut_of_unknown_axis,
        {"identity": UNKNOWN.format("matmul"), "pre": UNKNOWN.format("matmul"), "standard": ("b", None, None)},
    ),
    "a functional convolution": (
        _functional, {"replace": "needs a convolution that is a module", "conv3x3": ("conv2d", None, None)},
    ),
    "in place, a module": (_in_place_first, {"pre": ("act", ["b"], None)}),
}  # fmt: skip


def _edit_layers() -> dict[str, Any]:
    return {
        "stem": conv(16, 16, 1), "a": conv(16, 16), "b": conv(16, 16), "p": conv(32, 16, 1), "p1": conv(16, 16, 1),
        "pool": nn.MaxPool2d(2), "act": nn.ReLU(inplace=True), "w": torch.zeros(16, 16, 3, 3),
    }  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_edits(name: str) -> None:
    run, placements = EDITS[name]
    graph = analysed(Net(run, **_edit_layers()))
    (anatomy,) = [calls[0] for key, calls in graph.anatomies.items() if key[0] == "residual"]
    for placement, expected in placements.items():
        edit = edit_for(graph, anatomy, placement)
        if isinstance(expected, str):
            assert edit == f"placement {placement} {expected}"
            continue
        assert isinstance(edit, Edit)
        value, readers, replaced = expected
        assert edit.value.name == value
        assert (edit.channel_axis, edit.channels) == (1, 16)
        assert (edit.readers if edit.readers is None else sorted(n.name for n in edit.readers)) == readers
        assert (edit.replaced and edit.replaced.name) == replaced


def test_edits_of_sites_without_a_branch() -> None:
    graph = analysed(Net(lambda m, x: read_on(torch.cat([m.a(x), relu(m.b(x))], 1)), **_edit_layers()))
    ((anatomy,),) = graph.anatomies.values()
    assert edit_for(graph, anatomy, "standard") == Edit(anatomy.gated, 1)
    for placement in ("pre", "post", "identity", "conv3x3", "replace"):
        assert edit_for(graph, anatomy, placement) == (
            f"placement {placement} needs a residual block, and this is a mixed site"
        )


def test_edits_of_existing_attention_take_its_place() -> None:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(m.p1(x.mean((2, 3), keepdim=True)))

    graph = analysed(Net(run, **_edit_layers()), kinds=("attention",))
    ((anatomy,),) = graph.anatomies.values()
    for placement in PLACEMENTS:
        edit = edit_for(graph, anatomy, placement)
        assert isinstance(edit, Edit)
        assert (edit.value.name, edit.channel_axis, edit.readers, edit.replaced) == ("x", 1, None, anatomy.join)


def _token_fork(m: Net, x: torch.Tensor) -> torch.Tensor:
    tokens = m.stem(x).flatten(2)
    return m.a(tokens.unflatten(2, (8, 8))) + m.b(relu(m.p1(tokens.unflatten(2, (8, 8)))))


def _list_fork(m: Net, x: torch.Tensor) -> torch.Tensor:
    first, second = m.stem(x).chunk(2, 1)
    return first + m.h2(relu(m.h1(torch.cat([first, second], 1))))


def test_a_branch_that_starts_from_no_map_has_no_place_before_it() -> None:
    for run, reason in (
        (_token_fork, "placement pre needs a branch that starts from a feature map"),
        (_list_fork, "placement pre needs a block whose branch starts from one value"),
    ):
        graph = analysed(Net(run, **_edit_layers(), h1=conv(16, 8), h2=conv(8, 8)))
        (anatomy,) = [calls[0] for key, calls in graph.anatomies.items() if key[0] == "residual"]
        assert edit_for(graph, anatomy, "pre") == reason


def test_in_place() -> None:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        x = m.act(x).relu_()
        x = F.relu(x, inplace=True)
        return F.relu(m.calm(x), inplace=False).relu()

    net = read(Net(run, act=nn.ReLU(inplace=True), calm=nn.ReLU()), (2, 16, 8, 8))
    assert {node.name: _is_in_place(net.flow, node) for node in net.graph.nodes if node.op.startswith("call")} == {
        "act": True, "relu_": True, "relu": True, "calm": False, "relu_1": False, "relu_2": False,
    }  # fmt: skip


def test_the_activation_after_an_add_runs_in_the_same_block() -> None:
    inner = Net(lambda m, x: x + _branch(m, x), **_edit_layers())
    graph = analysed(Net(lambda m, x: relu(m.inner(x)), inner=inner))
    ((anatomy,),) = graph.anatomies.values()
    assert after_activation(graph.flow, anatomy.join) is anatomy.join
    for last, activation in (
        (lambda y: y * torch.sigmoid(y), False),
        (lambda y: F.gelu(y), True),
        (lambda y: y * 2.0, False),
        (lambda y: y.norm(dim=1), False),
    ):
        graph = analysed(Net(lambda m, x, last=last: last(x + _branch(m, x)), **_edit_layers()))
        ((anatomy,),) = graph.anatomies.values()
        assert (after_activation(graph.flow, anatomy.join) is not anatomy.join) is activation
