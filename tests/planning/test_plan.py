"""Plans: what goes where under which name and with which options, what is noted, and what is refused in which words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import AttentionError, PlanError, inject, make_plan
from attn_inject.planning.choices import Choices
from attn_inject.planning.plan import locate_and_plan
from attn_inject.types import Init, Insertion, Plan, Source

from ..toys import REFUSED, SPELLINGS, Block, Lambda, Toy, conv

SIZE = (3, 16, 16)
relu = torch.relu


def residual(**more: nn.Module | None) -> Lambda:
    """A block of 16 channels, with what else it holds."""
    block = Lambda(lambda m, x: x + m.b(relu(m.a(x))), a=conv(16, 16), b=conv(16, 16))
    for name, module in more.items():
        setattr(block, name, module)
    return block


def gate() -> Lambda:
    """Channel attention of the block's own, as a module."""
    return Lambda(
        lambda m, x: x * torch.sigmoid(m.up(relu(m.down(x.mean((2, 3), keepdim=True))))),
        down=conv(16, 4, 1),
        up=conv(4, 16, 1),
    )


def gated() -> Lambda:
    return Lambda(lambda m, x: x + m.se(m.b(relu(m.a(x)))), a=conv(16, 16), b=conv(16, 16), se=gate())


def written_out() -> Lambda:
    """The same with the attention in the block's own forward."""

    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        y = m.b(relu(m.a(x)))
        return x + y * torch.sigmoid(m.up(relu(m.down(y.mean((2, 3), keepdim=True)))))

    return Lambda(run, a=conv(16, 16), b=conv(16, 16), down=conv(16, 4, 1), up=conv(4, 16, 1))


def bottleneck(middle: nn.Module | None = None, out: int = 16, stride: int = 1, width: int = 8) -> Lambda:
    return Lambda(
        lambda m, x: m.project(x) + m.c3(relu(m.c2(relu(m.c1(x))))),
        c1=conv(16, 8, 1),
        c2=middle or conv(8, width, 3, stride),
        c3=conv(width, out, 1),
        project=conv(16, out, 1, stride),
    )


def two_stages() -> nn.Module:
    return Toy(nn.Sequential(Block(SPELLINGS["+"]), Block(SPELLINGS["+"], 16, 32, 2)), out=32)


def chain(*blocks: nn.Module) -> nn.Module:
    return Toy(nn.Sequential(*blocks))


def plan_of(model: nn.Module, attention: Any = "se", **choices: Any) -> Plan:
    if attention == "se" and "options" not in choices:
        choices = {"reduction": 4, **choices}
    return make_plan(model, attention, input_size=choices.pop("input_size", SIZE), **choices)


def modules(plan: Plan) -> list[str]:
    return [insertion.module for insertion in plan.insertions]


def test_a_whole_plan() -> None:
    source = Source("object", "Toy")
    plan = plan_of(two_stages(), source=source, init="identity")
    first, second = (insertion.site for insertion in plan.insertions)
    assert (first.key, first.channels, first.size, first.stage) == (("residual", "body.0", 0), 16, (16, 16), 0)
    assert (second.key, second.channels, second.size, second.stage) == (("residual", "body.1", 0), 32, (8, 8), 1)
    assert plan == Plan(
        (
            Insertion(first, "body.0.se", "se", {"reduction": 4}, "standard", "identity", 16, None),
            Insertion(second, "body.1.se", "se", {"reduction": 4}, "standard", "identity", 32, None),
        ),
        "se",
        "identity",
        (),
        source,
        None,
        ("residual",),
        (2, 3, 16, 16),
        (),
    )
    assert plan.factory is None


def test_a_plan_in_a_scope_and_with_given_inputs() -> None:
    model = nn.ModuleDict({"other": conv(3, 4), "net": two_stages()})
    plan = make_plan(model, "eca", scope="net", example_inputs=torch.zeros(5, 3, 20, 12), placement="pre")
    assert (plan.scope, plan.input_shape, plan.source) == ("net", (5, 3, 20, 12), None)
    assert modules(plan) == ["body.0.eca", "body.1.eca"]
    assert [(i.placement, i.channels, i.site.channels) for i in plan.insertions] == [("pre", 16, 16), ("pre", 16, 32)]


def test_the_kinds_of_a_plan_are_those_with_sites() -> None:
    kinds = ("stage", "residual", "mixed", "plain")
    assert plan_of(two_stages(), kinds=kinds).kinds == ("residual", "stage")
    located, plan = locate_and_plan(two_stages(), Choices(attention="eca", input_size=16, kinds=("stage",)))
    assert plan.kinds == located.kinds == ("stage",)
    assert plan.input_shape == (2, 3, 16, 16)


def made(channels: int) -> nn.Module:
    return nn.Conv2d(channels, channels, 1)


def test_a_function_is_kept_with_the_plan() -> None:
    plan = plan_of(two_stages(), made)
    assert plan.factory is made
    assert plan.attention == f"{__name__}:made"
    assert modules(plan) == ["body.0.made", "body.1.made"]


class AlmostIdentity(nn.Identity):
    pass


@pytest.mark.parametrize(
    ("held", "name"),
    [
        ({}, "se"),
        ({"se": None}, "se"),
        ({"se": nn.Identity()}, "se"),
        ({"se": AlmostIdentity()}, "se2"),
        ({"se": conv(16, 16, 1)}, "se2"),
        ({"se": conv(16, 16, 1), "se2": conv(16, 16, 1)}, "se3"),
        ({"se": conv(16, 16, 1), "se2": None}, "se2"),
        ({"se": conv(16, 16, 1), "se3": conv(16, 16, 1)}, "se2"),
        ({"se2": conv(16, 16, 1)}, "se"),
        ({"se": 0}, "se2"),
    ],
)
def test_a_name_is_free_where_nothing_stands(held: dict[str, Any], name: str) -> None:
    (insertion,) = plan_of(chain(residual(**held))).insertions
    assert insertion.module == f"body.0.{name}"
    assert insertion.replaces is None


def test_two_sites_in_one_block_get_two_names() -> None:
    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        x = x + m.b(relu(m.a(x)))
        return x + m.d(relu(m.c(x)))

    model = Toy(Lambda(run, **{name: conv(16, 16) for name in "abcd"}))
    assert modules(plan_of(model)) == ["body.se", "body.se2"]


def test_the_model_itself_can_be_the_block() -> None:
    model = Lambda(lambda m, x: m.stem(x) + m.b(relu(m.stem(x))), stem=conv(3, 16), b=conv(16, 16))
    model.run = lambda m, x: (y := m.stem(x)) + m.b(relu(y))
    assert modules(plan_of(model)) == ["se"]
    assert modules(plan_of(model, name="stem")) == ["stem2"]


@pytest.mark.parametrize(
    ("choices", "child"), [({}, "eca"), ({"preset": "timm"}, "se"), ({"preset": "timm", "name": "gate"}, "gate")]
)
def test_the_callers_name_goes_before_the_presets_and_this_before_the_attentions(
    choices: dict[str, Any], child: str
) -> None:
    assert modules(plan_of(chain(residual()), "eca", **choices)) == [f"body.0.{child}"]


TIMM = {"form": "conv", "bias": True, "divisor": 8}


@pytest.mark.parametrize(
    ("choices", "options"),
    [
        ({}, [{}, {}]),
        ({"reduction": 2}, [{"reduction": 2}] * 2),
        ({"reduction": 2, "stage_options": {1: {"reduction": 4}}}, [{"reduction": 2}, {"reduction": 4}]),
        ({"stage_options": {0: {"bias": True}, 9: {"bias": False}}}, [{"bias": True}, {}]),
        ({"preset": "timm"}, [TIMM, TIMM]),
        ({"preset": "timm", "bias": False, "act": "silu"}, [{**TIMM, "bias": False, "act": "silu"}] * 2),
        (
            {"preset": "timm", "divisor": 4, "stage_options": {1: {"divisor": 2, "bias": False}}},
            [{**TIMM, "divisor": 4}, {**TIMM, "divisor": 2, "bias": False}],
        ),
    ],
)
def test_options_of_a_stage_go_before_the_presets_and_these_before_the_general_ones(
    choices: dict[str, Any], options: list[dict[str, Any]]
) -> None:
    plan = make_plan(two_stages(), "se", input_size=SIZE, **{"min_width": 1, **choices})
    assert [dict(insertion.options) for insertion in plan.insertions] == [{"min_width": 1, **each} for each in options]


def test_options_of_a_stage_without_a_block_are_said_to_do_nothing() -> None:
    options = {0: {"bias": True}, 9: {"bias": False}, 11: {}}
    plan = make_plan(two_stages(), "se", input_size=SIZE, stage_options=options)
    assert "the options for stage 9, 11 do nothing: no chosen block is there" in plan.notes
    there = make_plan(two_stages(), "se", input_size=SIZE, stage_options={0: {"bias": True}})
    assert not [note for note in there.notes if "do nothing" in note]
    (only,) = make_plan(two_stages(), "se", input_size=SIZE, stages=0, stage_options={1: {"bias": True}}).notes
    assert only == "the options for stage 1 do nothing: no chosen block is there"


def strided(channels: int, *, stride: int = 1) -> nn.Module:
    return nn.Conv2d(channels, channels, 3, stride, 1)


def widened(channels: int, *, out_channels: int = 0) -> nn.Module:
    return nn.Conv2d(channels, out_channels or channels, 1)


def both(channels: int, out_channels: int = 0, stride: int = 1) -> nn.Module:
    return nn.Conv2d(channels, out_channels or channels, 3, stride, 1)


SAME, WIDER, HALVED = conv(8, 8), conv(8, 12), conv(8, 8, s=2)
HALVED_ACROSS = nn.Conv2d(8, 8, 3, (1, 2), 1)
CASES: list[tuple[Any, nn.Module, dict[str, Any] | str]] = [
    (made, SAME, {}),
    (made, WIDER, "no out_channels and no stride"),
    (made, HALVED, "no out_channels and no stride"),
    (strided, SAME, {"stride": 1}),
    (strided, WIDER, "no out_channels"),
    (strided, HALVED, "no out_channels"),
    (widened, SAME, {"out_channels": 8}),
    (widened, WIDER, "no stride"),
    (widened, HALVED, "no stride"),
    (both, SAME, {"out_channels": 8, "stride": 1}),
    (both, WIDER, {"out_channels": 12, "stride": 1}),
    (both, HALVED, {"out_channels": 8, "stride": 2}),
    (both, HALVED_ACROSS, {"out_channels": 8, "stride": (1, 2)}),
    (made, HALVED_ACROSS, "no out_channels and no stride"),
]


@pytest.mark.parametrize(("attention", "convolution", "wanted"), CASES)
def test_what_takes_a_convolutions_place_takes_over_what_it_does_to_the_shape(
    attention: Any, convolution: nn.Module, wanted: dict[str, Any] | str
) -> None:
    width, stride = int(convolution.out_channels), convolution.stride
    block = bottleneck(convolution, width=width)
    block.project = nn.Conv2d(16, 16, 1, stride)
    if isinstance(wanted, dict):
        (insertion,) = plan_of(chain(block), attention, placement="replace").insertions
        assert dict(insertion.options) == wanted
        assert (insertion.module, insertion.replaces) == (f"body.0.{attention.__name__}", "body.0.c2")
        assert insertion.channels == 8
    else:
        with pytest.raises(PlanError) as caught:
            plan_of(chain(block), attention, placement="replace")
        name = f"{__name__}:{attention.__name__}"
        assert str(caught.value) == f"{name} cannot take the place of body.0.c2: it has {wanted} option"


def test_what_the_caller_gives_goes_before_what_the_convolution_had() -> None:
    asked: dict[str, Any] = {"placement": "replace", "name": "c2"}
    plan = plan_of(chain(bottleneck(width=12)), "psa", stage_options={0: {"stride": 1}}, out_channels=12, **asked)
    assert plan.insertions[0].options == {"stride": 1, "out_channels": 12}
    # The name of what is replaced is free too.
    assert modules(plan) == ["body.0.c2"]
    # Here it fits no more, which is the caller's.
    with pytest.raises(AttentionError, match=r"^body.0.c2: .* makes 2x4x16x16 of the map 2x8x16x16: .* 2x8x8x8 there$"):
        plan_of(chain(bottleneck(stride=2)), both, out_channels=4, stage_options={1: {"stride": 1}}, **asked)


@pytest.mark.parametrize("placement", ["standard", "conv3x3", "pre"])
def test_what_replaces_no_convolution_takes_nothing_over(placement: Any) -> None:
    (insertion,) = plan_of(chain(bottleneck(stride=2)), "psa", placement=placement).insertions
    assert (insertion.options, insertion.replaces) == ({}, None)


def test_what_replaces_a_gate_takes_nothing_over() -> None:
    plan = plan_of(chain(gated()), "psa", existing="replace", placement="replace", kinds=("attention",))
    assert [(i.module, i.replaces, i.options) for i in plan.insertions] == [("body.0.psa", "body.0.se", {})]


@pytest.mark.parametrize(
    ("block", "choices", "placed"),
    [
        (gated, {}, [("residual", "body.0.eca", None)]),
        (gated, {"existing": "stack", "name": "se"}, [("residual", "body.0.se2", None)]),
        (gated, {"existing": "replace"}, [("attention", "body.0.eca", "body.0.se")]),
        (gated, {"existing": "replace", "name": "se"}, [("attention", "body.0.se", "body.0.se")]),
        (gated, {"existing": "replace", "name": "a"}, [("attention", "body.0.a2", "body.0.se")]),
        (written_out, {"existing": "replace"}, [("attention", "body.0.eca", None)]),
        (written_out, {"existing": "stack"}, [("residual", "body.0.eca", None)]),
        (gated, {"existing": "skip", "kinds": ("residual", "attention")}, [("attention", "body.0.eca", "body.0.se")]),
        (
            gated,
            {"existing": "stack", "kinds": ("residual", "attention")},
            [("attention", "body.0.eca", "body.0.se"), ("residual", "body.0.eca2", None)],
        ),
    ],
)
def test_what_becomes_of_attention_that_is_there(
    block: Callable[[], nn.Module], choices: dict[str, Any], placed: list[tuple[str, str, str | None]]
) -> None:
    plan = plan_of(chain(block()), "eca", **choices)
    assert sorted((i.site.kind, i.module, i.replaces) for i in plan.insertions) == placed


def test_blocks_without_attention_get_theirs_beside_those_that_have_it() -> None:
    model = chain(residual(), gated(), residual())
    assert modules(plan_of(model, "eca", existing="skip")) == ["body.0.eca", "body.2.eca"]
    assert modules(plan_of(model, "eca", existing="replace")) == ["body.0.eca", "body.1.eca", "body.2.eca"]
    assert plan_of(model, "eca", existing="skip").notes == ()
    assert plan_of(model, "eca", existing="replace").notes == ()


def test_stacking_on_attention_that_is_there_is_noted() -> None:
    model = chain(residual(), gated(), gated())
    assert plan_of(model, "eca").notes == (
        "2 of 3 blocks already have channel attention (body.1.se, ...): the new one is stacked after it",
    )
    assert plan_of(model, "eca", exclude="body.1").notes == (
        "1 of 2 blocks already have channel attention (body.2.se, ...): the new one is stacked after it",
    )
    assert plan_of(model, "eca", include="body.0").notes == ()


def test_what_modules_had_to_adjust_is_noted_with_the_places() -> None:
    fitted = "sites with groups 5 fitted to 4"
    model = chain(*(residual() for _ in range(4)))
    notes = plan_of(model, "se-gc", groups=5).notes
    assert notes == (f"se-gc: 4 of 4 {fitted} (body.0.se_gc, body.1.se_gc, body.2.se_gc, ...)",)
    notes = plan_of(model, "se-gc", groups=5, every=2).notes
    assert notes == (f"se-gc: 2 of 2 {fitted} (body.0.se_gc, body.2.se_gc)",)
    assert plan_of(model, "se-gc", groups=8).notes == ()
    # Of a mixed-in module, it is the inner one that knows.
    (note,) = plan_of(chain(residual()), "psa", init="identity", kernels=[3, 3], groups=[1, 3]).notes[:1]
    assert note == "psa: 1 of 1 sites with groups (1, 3) fitted to (1, 2) (body.0.psa)"
    several = plan_of(two_stages(), "se-gc", stage_options={0: {"groups": 5}, 1: {"groups": 3}}).notes
    assert several == (
        "se-gc: 1 of 2 sites with groups 5 fitted to 4 (body.0.se_gc)",
        "se-gc: 1 of 2 sites with groups 3 fitted to 2 (body.1.se_gc)",
    )


class Weights(nn.Module):
    """Of just so many parameters."""

    def __init__(self, channels: int, *, count: int = 0, out_channels: int = 0, stride: int = 1) -> None:
        super().__init__()
        self.weights, self.counted = nn.Parameter(torch.zeros(count)), nn.Parameter(torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.counted[0]


def size_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_an_attention_larger_than_the_network_is_noted() -> None:
    model = chain(residual(), residual())
    total = size_of(model)
    assert total == 9813
    # Two modules of one parameter less than the network has, then of one more.
    assert plan_of(model, Weights, count=(total - 5) // 2).notes == ()
    name = f"{__name__}:Weights"
    assert plan_of(model, Weights, count=(total - 3) // 2).notes == (
        f"{name} adds 0.01 M parameters to a network of 0.01 M (0.00 M at body.1.weights alone): "
        "placement 'replace' is how its paper uses it",
    )
    single = {"include": "body.0"}
    assert plan_of(model, Weights, count=total - 2, **single).notes == ()
    assert plan_of(model, Weights, count=total - 1, **single).notes == (
        f"{name} adds 0.01 M parameters to a network of 0.01 M (0.01 M at body.0.weights alone): "
        "placement 'replace' is how its paper uses it",
    )


def test_the_way_out_is_named_where_there_is_one() -> None:
    """What cannot change the number of channels is not meant to take a convolution's place."""
    assert plan_of(chain(residual()), "bam", reduction=1).notes[-1].endswith("body.0.bam alone)")
    plan = plan_of(chain(residual()), "sk", min_width=1000)
    assert plan.notes[-1].endswith("body.0.sk alone): placement 'replace' is how its paper uses it")


def test_the_largest_place_is_named_with_its_share() -> None:
    model = two_stages()
    model.ballast = nn.Linear(1000, 1000, bias=False)
    options = {0: {"count": 3_000_000}, 1: {"count": 1_250_000}}
    share = f"a network of {size_of(model) / 1e6:.2f} M"
    assert share == "a network of 1.02 M"
    assert plan_of(model, Weights, stage_options=options).notes == (
        f"{__name__}:Weights adds 4.25 M parameters to {share} (3.00 M at body.0.weights alone): "
        "placement 'replace' is how its paper uses it",
    )


def test_the_network_is_the_whole_model_of_a_scope() -> None:
    model = nn.ModuleDict({"net": chain(residual()), "ballast": nn.Linear(100, 100)})
    count = size_of(model) - 2
    assert plan_of(model, Weights, scope="net", count=count).notes == ()
    assert len(plan_of(model, Weights, scope="net", count=count + 1).notes) == 1


def test_gates_and_what_replaces_something_may_be_as_large_as_they_are() -> None:
    assert plan_of(chain(residual()), "se", rd_channels=100_000).notes == ()
    assert plan_of(chain(bottleneck()), Weights, count=100_000, placement="replace").notes == ()


def test_a_block_without_the_place_is_noted_once() -> None:
    model = chain(bottleneck(), residual(), bottleneck())
    plan = plan_of(model, placement="conv3x3")
    assert modules(plan) == ["body.0.se", "body.2.se"]
    assert [insertion.channels for insertion in plan.insertions] == [8, 8]
    assert plan.notes == ("body.1: placement conv3x3 needs a block with one spatial convolution, and this one has 2",)

    def two_adds(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        x = x + m.b(relu(m.a(x)))
        return x + m.d(relu(m.c(x)))

    of_two_sites = Lambda(two_adds, **{name: conv(16, 16) for name in "abcd"})
    assert plan_of(chain(bottleneck(), of_two_sites), placement="conv3x3").notes == plan.notes


def test_a_network_without_the_place_is_refused_with_the_first_reason() -> None:
    two = "placement conv3x3 needs a block with one spatial convolution, and this one has"
    three = Lambda(lambda m, x: x + m.c(relu(m.b(relu(m.a(x))))), **{name: conv(16, 16) for name in "abc"})
    with pytest.raises(PlanError) as caught:
        plan_of(chain(three, residual()), placement="conv3x3")
    assert str(caught.value) == f"body.0: {two} 3"


@pytest.mark.parametrize(
    ("make", "choices", "sentence"),
    [
        (
            REFUSED["fusion"][1],
            {},
            None,
        ),
        (
            lambda: chain(conv(16, 16)),
            {},
            "no sites: there are neither adds nor concats of feature maps (try kinds='stage')",
        ),
        (
            two_stages,
            {"kinds": "attention"},
            "no sites of kind attention: the kinds are residual, mixed, plain, stage, attention",
        ),
        (
            two_stages,
            {"min_channels": 33},
            "none of the 2 sites is left after the filters: blocks are body.0, body.1, stages 0, 1",
        ),
        (
            lambda: chain(gated(), gated()),
            {"existing": "skip"},
            "every chosen block has channel attention of its own: use existing='stack' or existing='replace'",
        ),
        (two_stages, {"every": 0}, "every must be a whole number from 1, got 0"),
        (two_stages, {"attention": "none"}, "attention 'none' takes attention out, so it needs existing='replace'"),
        (
            two_stages,
            {"attention": "none", "existing": "replace"},
            "no chosen block has channel attention that could be taken out",
        ),
        (
            lambda: chain(gated()),
            {"attention": "none", "existing": "replace", "k": 3, "gain": 1},
            "attention 'none' takes no options, got k, gain",
        ),
    ],
)
def test_what_cannot_be_planned(make: Callable[[], nn.Module], choices: dict[str, Any], sentence: str | None) -> None:
    with pytest.raises(PlanError) as caught:
        plan_of(make(), **{"attention": "eca", **choices})
    if sentence is None:
        assert str(caught.value).startswith("no sites: 1 x add both operands are nonlinear")
    else:
        assert str(caught.value) == sentence


def test_what_takes_attention_out() -> None:
    model = chain(gated(), residual(), written_out())
    source = Source("object", "Toy")
    plan = plan_of(model, "none", existing="replace", source=source, init="identity")
    assert [site.block for site in plan.removals] == ["body.0.se", "body.2"]
    assert {site.kind for site in plan.removals} == {"attention"}
    assert plan == Plan(
        (),
        "none",
        "identity",
        plan.removals,
        source,
        None,
        ("attention", "residual"),
        (2, 3, 16, 16),
        ("the channel attention of 2 blocks is taken out: body.0.se, body.2",),
    )
    fewer = make_plan(nn.ModuleDict({"net": model}), "none", existing="replace", scope="net", include="body.2",
                      input_size=SIZE)  # fmt: skip
    assert (fewer.scope, [site.block for site in fewer.removals]) == ("net", ["body.2"])


def test_options_are_checked_before_anything_is_built() -> None:
    options = "reduction, bias, divisor, min_width, rd_channels, gate, act, form, gain"
    sentence = f"se has no option 'reductoin' (did you mean reduction?); its options: {options}"
    for choices in ({"reductoin": 4}, {"stage_options": {7: {"reductoin": 4}}}):
        with pytest.raises(AttentionError) as caught:
            make_plan(two_stages(), "se", input_size=SIZE, **choices)
        assert str(caught.value) == sentence


def test_a_narrow_site_is_fitted_and_said_once() -> None:
    model = Toy(nn.Sequential(residual(), residual(), Block(SPELLINGS["+"], 16, 32, 2)), out=32)
    plan = make_plan(model, "se", input_size=SIZE, reduction=32)
    assert plan.notes == ("se: 2 of 3 sites narrower than the reduction 32: hidden width 1 (body.0.se, body.1.se)",)
    patched = inject(model, "se", input_size=SIZE, reduction=32)
    assert [patched.get_submodule(name).fc1.out_features for name in modules(plan)] == [1, 1, 1]
    assert inject(model, "se", input_size=SIZE, reduction=32, min_width=3).injection.plan.notes == ()


@pytest.mark.parametrize("init", ["paper", "identity"])
def test_a_setting_that_no_site_can_take_names_the_widest(init: Init) -> None:
    with pytest.raises(AttentionError) as caught:
        make_plan(two_stages(), "se", input_size=SIZE, reduction=33, init=init)
    assert str(caught.value) == (
        "body.1.se: reduction 33 is wider than the 32 channels: use at most 32, or set min_width"
    )


def test_nonsense_for_one_stage_stays_an_error() -> None:
    with pytest.raises(AttentionError, match="^body.0.se: reduction must be a number from 1, got 0$"):
        make_plan(two_stages(), "se", input_size=SIZE, stage_options={0: {"reduction": 0}})


def test_modules_are_tried_without_memory() -> None:
    seen: list[tuple[str, int]] = []

    def watched(channels: int) -> nn.Module:
        module = made(channels)
        seen.append((module.weight.device.type, channels))
        return module

    plan_of(two_stages(), watched)
    assert seen == [("meta", 16), ("meta", 32)]


def test_what_an_earlier_injection_did_is_part_of_the_plan_and_not_done_again() -> None:
    first = inject(chain(residual(), residual(), residual()), "eca", include="body.1", input_size=SIZE)
    plan = plan_of(first)
    assert modules(plan) == ["body.1.eca", "body.0.se", "body.2.se"]
    assert [insertion.attention for insertion in plan.insertions] == ["eca", "se", "se"]
    assert plan.attention == "se"
    with pytest.raises(PlanError) as caught:
        plan_of(first, include="body.1")
    assert str(caught.value) == (
        "every chosen block already has attention from an earlier injection: use remove() first"
    )
