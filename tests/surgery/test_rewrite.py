"""The rewrite: where the new nodes stand in the graphs, what the new modules are made of, what is displaced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import fx, nn

from attn_inject import InjectedModule, PlanError, apply_plan, attach, inject, make_plan, remove
from attn_inject.attention.registry import resolve
from attn_inject.sites.reading import read
from attn_inject.surgery.provenance import fingerprint, versions
from attn_inject.surgery.rewrite import channels_first, install, rewrite
from attn_inject.tracing.nodes import frame_of, is_of_attention
from attn_inject.types import Insertion, Placement, Site

from .. import toys
from ..toys import SPELLINGS, Block, Lambda, Residual, Toy, conv

SIZE = (3, 16, 16)
MODES = ("eval", "train")
relu = torch.relu


def bottleneck() -> Lambda:
    return Lambda(lambda m, x: x + m.c3(relu(m.c2(relu(m.c1(x))))), c1=conv(16, 8, 1), c2=conv(8, 8), c3=conv(8, 16, 1))


def gated() -> Lambda:
    gate = Lambda(
        lambda m, x: x * torch.sigmoid(m.up(relu(m.down(x.mean((2, 3), keepdim=True))))),
        down=conv(16, 4, 1),
        up=conv(4, 16, 1),
    )
    return Lambda(lambda m, x: x + m.se(m.b(relu(m.a(x)))), a=conv(16, 16), b=conv(16, 16), se=gate)


def calls(graph: fx.Graph, module: str) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_module" and node.target == module]


def targets(graph: fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if node.op == "call_module"]


def patch(model: nn.Module, attention: Any = "eca", **choices: Any) -> InjectedModule:
    return inject(model, attention, input_size=SIZE, **choices)


@pytest.mark.parametrize("mode", MODES)
def test_a_value_gated_for_all_is_gated_right_after_it_is_made(mode: str) -> None:
    graph = patch(Toy(bottleneck())).graph_of(mode)
    (new,) = calls(graph, "body.eca")
    assert [str(node.target) for node in (new.prev, *new.all_input_nodes)] == ["body.c3", "body.c3"]
    assert list(new.args[0].users) == [new]
    assert len(new.users) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("placement", ["pre", "identity"])
def test_a_value_gated_for_some_is_gated_right_before_the_first_of_them(mode: str, placement: Placement) -> None:
    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        first, second = m.a(x), m.b(x)
        return m.d(relu(torch.cat([second, first], 1))) + x

    model = Toy(Lambda(run, a=conv(16, 8), b=conv(16, 8), d=conv(16, 16, 1)))
    graph = patch(model, placement=placement).graph_of(mode)
    (new,) = calls(graph, "body.eca")
    (value,) = new.all_input_nodes
    if placement == "pre":
        assert (new.next.target, [user.target for user in new.users]) == ("body.a", ["body.a", "body.b"])
        assert len(value.users) == 2
    else:
        assert list(new.users) == [new.next]
        assert {user.target for user in value.users} == {"body.a", "body.b", "body.eca"}


@pytest.mark.parametrize("form", [inject, attach])
def test_a_block_and_a_block_in_it_that_begin_with_the_same_value_are_gated_one_after_the_other(form: Any) -> None:
    class Group(nn.Module):
        """A long skip around two blocks, the first of which reads what the group reads."""

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                *(Residual(conv(16, 16), nn.ReLU(), conv(16, 16)) for _ in range(2)), conv(16, 16)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = x + self.body(x)
            return out

    model, x = nn.Sequential(conv(16, 16), Group()).eval(), torch.randn(2, 16, 8, 8)
    patched = form(model, "se", input_size=(16, 8, 8), reduction=4, placement="pre").eval()
    gates = [patched.get_submodule(f"1.{home}se") for home in ("", "body.0.", "body.1.")]
    group: Any = model[1]
    before = model[0](x)
    inside = gates[0](before)
    for block, gate in zip(group.body[:2], gates[1:], strict=True):
        inside = inside + block.branch(gate(inside))
    assert torch.equal(patched(x), before + group.body[2](inside))
    assert toys.gates_run(patched, x) == 3


@pytest.mark.parametrize(
    ("rank", "axis", "order", "back"),
    [
        (4, 1, (0, 1, 2, 3), (0, 1, 2, 3)),
        (4, 2, (0, 2, 1, 3), (0, 2, 1, 3)),
        (4, 3, (0, 3, 1, 2), (0, 2, 3, 1)),
        (3, 2, (0, 2, 1), (0, 2, 1)),
        (5, 4, (0, 4, 1, 2, 3), (0, 2, 3, 4, 1)),
    ],
)
def test_the_permutation_to_channels_first_and_back(
    rank: int, axis: int, order: tuple[int, ...], back: tuple[int, ...]
) -> None:
    assert channels_first(rank, axis) == (order, back)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("placement", ["standard", "identity"])
def test_a_channels_last_value_is_permuted_there_and_back(mode: str, placement: Placement) -> None:
    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        y = m.c(relu(m.dw(x.permute(0, 3, 1, 2)))).permute(0, 2, 3, 1)
        return (m.fc(y) + x).permute(0, 3, 1, 2)

    model = Toy(Lambda(run, dw=conv(16, 16), c=conv(16, 16, 1), fc=nn.Linear(16, 16)))
    graph = patch(model, placement=placement).graph_of(mode)
    (new,) = calls(graph, "body.eca")
    first, last = new.prev, new.next
    value = first.args[0]
    assert (first.target, first.args, new.args) == ("permute", (value, 0, 3, 1, 2), (first,))
    assert (last.target, last.args) == ("permute", (new, 0, 2, 3, 1))
    assert isinstance(value, fx.Node)
    assert value.target == ("body.fc" if placement == "standard" else "permute")
    (add,) = last.users
    assert add.args.index(last) == (0 if placement == "standard" else 1)
    assert all(is_of_attention(node) and frame_of(node) == frame_of(add) for node in (first, new, last))
    assert not is_of_attention(add)


@pytest.mark.parametrize("mode", MODES)
def test_every_call_of_a_shared_block_is_gated_in_its_own_frame(mode: str) -> None:
    model = Toy(Lambda(lambda m, x: m.block(m.block(x)), block=Block(SPELLINGS["+"])))
    patched = patch(model)
    new = calls(patched.graph_of(mode), "body.block.eca")
    frames = [frame_of(node) for node in new]
    assert frames == [frame_of(node.prev) for node in new]
    assert frames == [frame_of(node) for node in calls(patched.graph_of(mode), "body.block.bn2")]
    assert len({number for _, number in frames}) == len(new) == 2
    assert {block for block, _ in frames} == {"body.block"}


SITE = Site("residual", "block", 0, 16, (16, 16), "channels_first", 0, "node", "join")


class Made(nn.Module):
    """An attention that remembers where it was made."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))
        self.made_on = self.weight.device.type


def installed(skeleton: nn.Module, module: str = "block.se") -> tuple[Made, dict[str, nn.Module]]:
    displaced: dict[str, nn.Module] = {}
    insertion = Insertion(SITE, module, "made", channels=16)
    install(skeleton, insertion, resolve(Made), displaced)
    made = skeleton.get_submodule(module)
    assert isinstance(made, Made)
    return made, displaced


def _tensors(*dtypes: torch.dtype, buffer: bool = False, device: str = "cpu") -> nn.Module:
    block = nn.Module()
    for number, dtype in enumerate(dtypes):
        tensor = torch.zeros(1, dtype=dtype, device=device)
        if buffer:
            block.register_buffer(f"t{number}", tensor)
        else:
            block.register_parameter(f"t{number}", nn.Parameter(tensor, requires_grad=dtype.is_floating_point))
    return block


@pytest.mark.parametrize(
    ("block", "other", "device", "dtype"),
    [
        (_tensors(torch.float64), _tensors(torch.float16), "cpu", torch.float64),
        (_tensors(torch.int64, torch.float64), _tensors(torch.float16), "cpu", torch.float64),
        (_tensors(torch.float64, buffer=True), _tensors(torch.float16), "cpu", torch.float64),
        (_tensors(), _tensors(torch.float16), "cpu", torch.float16),
        (_tensors(torch.int64), _tensors(torch.bool, torch.bfloat16, buffer=True), "cpu", torch.bfloat16),
        (_tensors(torch.int64), _tensors(), "cpu", torch.float32),
        (_tensors(torch.float64, device="meta"), _tensors(torch.float16), "meta", torch.float64),
    ],
)
def test_a_new_module_is_of_the_device_and_type_of_its_block(
    block: nn.Module, other: nn.Module, device: str, dtype: torch.dtype
) -> None:
    # Whatever the default device is.
    for default in ("cpu", "meta"):
        skeleton = nn.ModuleDict({"other": other, "block": nn.Sequential(block)})
        with torch.device(default):
            made, displaced = installed(skeleton)
        assert (made.weight.device.type, made.made_on, made.weight.dtype) == (device, device, dtype)
        assert displaced == {}


@pytest.mark.parametrize("training", [True, False])
def test_a_new_module_is_in_the_mode_of_the_module_it_lives_in(training: bool) -> None:
    skeleton = nn.ModuleDict({"block": nn.Module()}).train(not training)
    skeleton["block"].train(training)
    assert installed(skeleton)[0].training is training


def test_what_stood_there_is_displaced() -> None:
    for held in (nn.Identity(), nn.Linear(2, 2)):
        skeleton = nn.ModuleDict({"block": nn.Module()})
        skeleton["block"].se = held
        _, displaced = installed(skeleton)
        assert displaced == {"block.se": held}
    setattr(skeleton["block"], "se2", None)  # noqa: B010
    assert installed(skeleton, "block.se2")[1] == {}
    skeleton.register_module("block2", nn.Module())
    insertion = replace(Insertion(SITE, "top", "made", channels=16), site=replace(SITE, block=""))
    install(skeleton, insertion, resolve(Made), {})
    assert type(skeleton.top) is Made


@pytest.mark.parametrize(
    ("held", "sentence"),
    [
        (nn.Parameter(torch.zeros(1)), "the plan puts block.se where the model has a Parameter"),
        (nn.Buffer(torch.zeros(1)), "the plan puts block.se where the model has a Tensor"),
        (torch.zeros(1), "the plan puts block.se where the model has a Tensor"),
        (0, "the plan puts block.se where the model has a int"),
        ("no parameter", "the plan puts block.se where the model has a NoneType"),
        ("no buffer", "the plan puts block.se where the model has a NoneType"),
    ],
)
def test_what_is_no_module_is_not_displaced(held: Any, sentence: str) -> None:
    skeleton = nn.ModuleDict({"block": nn.Module()})
    if held == "no parameter":
        skeleton["block"].register_parameter("se", None)
    elif held == "no buffer":
        skeleton["block"].register_buffer("se", None)
    else:
        skeleton["block"].se = held
    with pytest.raises(PlanError) as caught:
        installed(skeleton)
    assert str(caught.value) in (sentence, sentence.replace("Tensor", "Buffer"))


def test_a_home_that_is_not_there() -> None:
    with pytest.raises(PlanError) as caught:
        installed(nn.ModuleDict({"block": nn.Module()}), "block.inner.se")
    assert str(caught.value) == "the plan puts block.inner.se into block.inner, which the model does not have"


def test_an_identity_that_kept_the_place_is_superseded() -> None:
    torch.manual_seed(0)
    model = Toy(
        Lambda(lambda m, x: x + m.se(m.b(relu(m.a(x)))) * 1.5, a=conv(16, 16), b=conv(16, 16), se=nn.Identity())
    ).eval()
    x = torch.randn(1, *SIZE)
    for placement in ("standard", "pre"):
        patched = patch(model, "se", name="se", reduction=4, placement=placement)
        assert list(patched.displaced) == ["body.se"]
        for mode in MODES:
            names = targets(patched.graph_of(mode))
            assert names == [
                "stem",
                *(["body.se", "body.a", "body.b"] if placement == "pre" else ["body.a", "body.b", "body.se"]),
                "head",
            ]
        assert torch.equal(remove(patched)(x), model(x))
        gate, y = patched.body.se, relu(patched.stem(x))
        out = patched.body.b(relu(patched.body.a(gate(y) if placement == "pre" else y)))
        out = y + (out if placement == "pre" else gate(out)) * 1.5
        assert torch.equal(patched(x), patched.head(out.flatten(2).mean(2)))


@pytest.mark.parametrize("name", [None, "c2"])
def test_a_replaced_convolution_is_gone_from_graphs_and_tree(name: str | None) -> None:
    model = Toy(bottleneck())
    patched = patch(model, "psa", placement="replace", name=name)
    child = name or "psa"
    for mode in MODES:
        assert targets(patched.graph_of(mode)) == ["stem", "body.c1", f"body.{child}", "body.c3", "head"]
        assert targets(patched.pristine_graph_of(mode)) == ["stem", "body.c1", "body.c2", "body.c3", "head"]
        assert frame_of(calls(patched.graph_of(mode), f"body.{child}")[0])[0] == "body"
    assert list(patched.displaced) == ["body.c2"]
    assert [name for name, _ in patched.body.named_children()] == ["c1", "c3", child]
    assert [name for name, _ in model.body.named_children()] == ["c1", "c2", "c3"]
    assert type(patched.displaced["body.c2"]) is nn.Conv2d


def test_a_replaced_gate_is_gone_with_what_computed_only_it() -> None:
    model = Toy(nn.Sequential(gated(), Block(SPELLINGS["+"])))
    here = ["stem", "body.0.a", "body.0.b"]
    rest = [f"body.1.{name}" for name in ("conv1", "bn1", "conv2", "bn2", "project")]
    for attention, name, new in (("eca", None, ["body.0.eca"]), ("eca", "se", ["body.0.se"]), ("none", None, [])):
        patched = patch(model, attention, existing="replace", name=name, kinds=("attention",))
        for mode in MODES:
            assert targets(patched.graph_of(mode)) == [*here, *new, *rest, "head"]
            assert not any(node.target is torch.sigmoid for node in patched.graph_of(mode).nodes)
        # A displaced module takes what it holds with it.
        parts = ["body.0.se"] if name else ["body.0.se.down", "body.0.se.up"]
        assert list(patched.displaced) == parts
        assert (len(patched.injection.plan.removals), len(patched.injection.plan.insertions)) == (not new, len(new))


def test_a_displaced_module_takes_along_what_is_in_it_and_not_what_is_called_alike() -> None:
    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        y = m.b(relu(m.a(x)))
        return x + y * torch.sigmoid(m.se2(relu(m.se(y.mean((2, 3), keepdim=True)))))

    model = Toy(Lambda(run, a=conv(16, 16), b=conv(16, 16), se=nn.Sequential(conv(16, 4, 1)), se2=conv(4, 16, 1)))
    plan = make_plan(model, "eca", existing="replace", input_size=SIZE)
    (insertion,) = plan.insertions
    assert (insertion.module, insertion.replaces) == ("body.eca", None)
    patched = apply_plan(model, replace(plan, insertions=(replace(insertion, module="body.se"),)))
    assert list(patched.displaced) == ["body.se", "body.se2"]
    assert targets(patched.graph_of("eval")) == ["stem", "body.a", "body.b", "body.se", "head"]


def test_a_gate_that_a_shared_block_runs_twice_is_taken_out_of_both_calls() -> None:
    model = Toy(Lambda(lambda m, x: m.block(m.block(x)), block=gated()))
    patched = patch(model, "none", existing="replace")
    for mode in MODES:
        assert targets(patched.graph_of(mode)) == ["stem", *["body.block.a", "body.block.b"] * 2, "head"]


def test_a_second_injection_keeps_the_first_and_what_it_displaced() -> None:
    torch.manual_seed(0)
    model = Toy(nn.Sequential(bottleneck(), bottleneck())).eval()
    first = patch(model, "psa", placement="replace", include="body.0")
    weight = first.get_submodule("body.0.psa.convs.0").weight
    second = patch(first, "eca")
    assert list(second.displaced) == ["body.0.c2"]
    assert [insertion.module for insertion in second.injection.plan.insertions] == ["body.0.psa", "body.1.eca"]
    again = second.get_submodule("body.0.psa.convs.0").weight
    assert again.data_ptr() == weight.data_ptr()
    for mode in MODES:
        names = targets(second.graph_of(mode))
        assert (names.count("body.0.psa"), names.count("body.1.eca")) == (1, 1)
        assert targets(second.pristine_graph_of(mode)) == targets(first.pristine_graph_of(mode))
    x = torch.randn(1, *SIZE)
    assert torch.equal(remove(second)(x), model(x))
    third = patch(first, "psa", placement="replace", include="body.1")
    assert list(third.displaced) == ["body.0.c2", "body.1.c2"]
    assert list(first.displaced) == ["body.0.c2"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"channels": 8}, "the plan is for 8 channels at body, the model has 16"),
        ({"placement": "conv3x3", "channels": 8, "site": 15}, "the plan is for 15 channels at body, the model has 16"),
        ({"placement": "conv3x3"}, "the plan is for 16 channels at body, the model has 8"),
        ({"module": "nowhere.eca"}, "the plan puts nowhere.eca into nowhere, which the model does not have"),
        ({"index": 1}, "the model has no residual site 1 in block body"),
        ({"block": ""}, "the model has no residual site 0 in block (model)"),
        ({"kind": "mixed"}, "the model has no mixed site 0 in block body"),
    ],
)
def test_a_plan_that_does_not_fit(change: dict[str, Any], sentence: str) -> None:
    model = Toy(bottleneck())
    plan = make_plan(model, "eca", input_size=SIZE)
    (insertion,) = plan.insertions
    of_site = {name: change.pop(name) for name in ("index", "block", "kind") if name in change}
    if "site" in change:
        of_site["channels"] = change.pop("site")
    wrong = replace(insertion, **change, site=replace(insertion.site, **of_site))
    with pytest.raises(PlanError) as caught:
        apply_plan(model, replace(plan, insertions=(wrong,)))
    assert str(caught.value) == sentence


def test_a_placement_that_the_block_does_not_have() -> None:
    model = Toy(Block(SPELLINGS["+"]))
    plan = make_plan(model, "eca", input_size=SIZE)
    wrong = replace(plan.insertions[0], placement="replace")
    with pytest.raises(PlanError) as caught:
        apply_plan(model, replace(plan, insertions=(wrong,)))
    assert str(caught.value) == (
        "body: placement replace needs a block with one spatial convolution, and this one has 2"
    )


def test_the_record() -> None:
    model = nn.ModuleDict({"net": Toy(bottleneck()), "other": nn.Linear(2, 2)})
    located = read(model, input_size=SIZE, scope="net")
    plan = make_plan(model, "eca", input_size=SIZE, scope="net")
    injection = rewrite(located, plan, ("a loss",)).injection
    assert (injection.plan, injection.not_kept, injection.verification) == (plan, ("a loss",), None)
    # The fingerprint is of the whole model.
    assert (injection.versions, injection.fingerprint) == (versions(), fingerprint(model))
    assert rewrite(located, plan).injection.not_kept == ()


@pytest.mark.parametrize("scope", ["net", "nets.net"])
def test_a_patched_part_is_in_its_place_and_the_model_is_not_touched(scope: str) -> None:
    home, _, child = scope.rpartition(".")
    part = Toy(bottleneck())
    model = nn.ModuleDict({child: part})
    if home:
        model = nn.ModuleDict({home: model})
    outer = cast(nn.Module, patch(model, scope=scope))
    inner = outer.get_submodule(scope)
    assert isinstance(inner, InjectedModule)
    assert type(outer) is nn.ModuleDict
    assert vars(outer)["injection"] is inner.injection
    assert model.get_submodule(scope) is part
    assert not hasattr(model, "injection")


def test_constants_of_the_trace_are_the_new_models() -> None:
    shift = torch.full((1, 16, 1, 1), 3.0)
    model = Toy(Lambda(lambda m, x: x + m.b(relu(m.a(x) + shift)), a=conv(16, 16), b=conv(16, 16))).eval()
    patched = patch(model, init="identity")
    x = torch.randn(1, *SIZE)
    assert torch.equal(patched(x), model(x))
