"""Every check of a patched model can fail: a model is patched, harmed in one way, and exactly that check says so."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from attn_inject import InjectedModule, RewriteError, TraceError, apply_plan, attach, inject, make_plan, verify
from attn_inject.surgery.postconditions import verify_part
from attn_inject.tracing.nodes import is_of_attention
from attn_inject.types import Verification

from ..toys import SPELLINGS, Block, Lambda, Toy, conv

SIZE = (3, 16, 16)
relu = torch.relu
GOOD = {
    "edits": "2 modules in both graphs",
    "weights": "32 tensors kept",
    "shapes": "eval (2, 5); train (2, 5)",
    "trace": "eval equal to the bit on 1x3x16x16; train equal to the bit on 2x3x16x16",
    "finite": "0 non-finite outputs on an input of 1x3x16x16",
    "gradients": "4 of 4 new parameters reached, 4 with a gradient other than zero",
}


def net(size: tuple[int, ...] = SIZE, attention: Any = "se", **options: Any) -> tuple[nn.Module, InjectedModule]:
    torch.manual_seed(0)
    model = Toy(nn.Sequential(Block(SPELLINGS["+="]), Block(SPELLINGS["+="])))
    given = {"reduction": 4, **options} if attention == "se" else options
    return model, inject(model, attention, input_size=size, **given)


def figures(verification: Verification) -> dict[str, str]:
    return {check.name: check.figure for check in verification.checks}


def failed(verification: Verification) -> dict[str, str]:
    return {check.name: check.figure for check in verification.checks if not check.passed}


def called(graph: fx.Graph, module: str) -> fx.Node:
    return next(node for node in graph.nodes if node.op == "call_module" and node.target == module)


def test_a_sound_result_with_its_figures() -> None:
    model, patched = net()
    assert patched.injection.verification == verify(model, patched)
    assert figures(verify(model, patched)) == GOOD
    assert failed(verify(model, patched)) == {}


def without_gate(mode: str) -> Callable[[InjectedModule], None]:
    def harm(patched: InjectedModule) -> None:
        node = called(patched.graph_of(mode), "body.0.se")
        node.replace_all_uses_with(node.all_input_nodes[0])
        patched.graph_of(mode).erase_node(node)

    return harm


def again(module: str, mode: str) -> Callable[[InjectedModule], None]:
    """Run a module once more, on what it gave (a gate), or on what it was given (a layer)."""

    def harm(patched: InjectedModule) -> None:
        graph, node = patched.graph_of(mode), called(patched.graph_of(mode), module)
        with graph.inserting_after(node):
            graph.create_node("call_module", module, (node if ".se" in module else node.args[0],))

    return harm


@pytest.mark.parametrize(
    ("harm", "figure"),
    [
        (without_gate("eval"), "body.0.se 0x in eval"),
        (without_gate("train"), "body.0.se 0x in train"),
        (again("body.1.se", "train"), "body.1.se 2x in train"),
        (again("head", "eval"), "head unplanned in eval"),
        (again("stem", "train"), "stem unplanned in train"),
    ],
)
def test_edits(harm: Callable[[InjectedModule], None], figure: str) -> None:
    model, patched = net()
    harm(patched)
    patched.recompile()
    wrong = failed(verify(model, patched))
    assert wrong.pop("edits") == figure
    # Without its gate in the graph of the passes, a module gets no gradient either.
    assert set(wrong) == ({"gradients"} if figure == "body.0.se 0x in eval" else set())


def test_edits_name_the_first_four() -> None:
    model, patched = net()
    for mode in ("eval", "train"):
        for module in ("stem", "head", "body.0.conv1"):
            again(module, mode)(patched)
    patched.recompile()
    assert failed(verify(model, patched)) == {
        "edits": "stem unplanned in eval; body.0.conv1 unplanned in eval; "
        "head unplanned in eval; stem unplanned in train"
    }


def test_edits_of_a_block_that_runs_twice_and_of_a_name_that_is_taken_over() -> None:
    torch.manual_seed(0)
    twice = Toy(Lambda(lambda m, x: m.block(m.block(x)), block=Block(SPELLINGS["+"])))
    patched = inject(twice, "se", reduction=4, input_size=SIZE)
    assert patched.injection.plan.insertions[0].site.calls == 2
    assert figures(verify(twice, patched))["edits"] == "1 modules in both graphs"
    without_gate = called(patched.graph_of("train"), "body.block.se")
    without_gate.replace_all_uses_with(without_gate.all_input_nodes[0])
    patched.graph_of("train").erase_node(without_gate)
    patched.recompile()
    assert failed(verify(twice, patched)) == {"edits": "body.block.se 1x in train"}
    placed = Toy(Lambda(lambda m, x: x + m.se(m.b(relu(m.a(x)))), a=conv(16, 16), b=conv(16, 16), se=nn.Identity()))
    assert failed(verify(placed, inject(placed, "se", reduction=4, input_size=SIZE))) == {}


def _rename(patched: InjectedModule) -> None:
    patched.head.bias = None


def _reshape(patched: InjectedModule) -> None:
    norm = patched.get_submodule("body.0.bn1")
    norm.num_batches_tracked = torch.zeros(1, dtype=torch.int64)


def _add(*names: str) -> Callable[[InjectedModule], None]:
    def harm(patched: InjectedModule) -> None:
        for name in names:
            tensor = patched.state_dict()[name]
            home, _, child = name.rpartition(".")
            setattr(patched.get_submodule(home), child, nn.Parameter(tensor + 1))

    return harm


def _untensor(patched: InjectedModule) -> None:
    """A value in the state dict that is no tensor, under a tensor's name."""
    patched._register_state_dict_hook(lambda module, state, *_: state.update({"head.bias": "text"}))


@pytest.mark.parametrize(
    ("harm", "names"),
    [
        (_add("head.weight"), "head.weight"),
        (_rename, "head.bias"),
        (_reshape, "body.0.bn1.num_batches_tracked"),
        (_untensor, "head.bias"),
        (
            _add("body.0.bn1.weight", "body.0.bn1.bias", "stem.bias", "head.bias", "head.weight"),
            "stem.bias, body.0.bn1.weight, body.0.bn1.bias, head.weight",
        ),
    ],
)
def test_weights(harm: Callable[[InjectedModule], None], names: str) -> None:
    model, patched = net()
    harm(patched)
    assert failed(verify(model, patched)) == {"weights": f"changed or missing: {names}"}


def test_weights_are_compared_by_value_unless_they_are_the_same_memory() -> None:
    model, patched = net()
    with torch.no_grad():
        model.head.bias.fill_(torch.nan)
    assert figures(verify(model, patched))["weights"] == "32 tensors kept"
    patched.stem.weight = nn.Parameter(patched.stem.weight.detach().clone())
    assert "weights" not in failed(verify(model, patched))
    patched.head.bias = nn.Parameter(patched.head.bias.detach().clone())
    assert failed(verify(model, patched))["weights"] == "changed or missing: head.bias"


def test_the_same_memory_read_in_another_way_is_not_the_same_weight() -> None:
    torch.manual_seed(0)
    model = Toy(Block(SPELLINGS["+"]))
    model.head = nn.Linear(16, 16)
    for table in (torch.arange(4.0).reshape(2, 2), torch.ones(4)):
        model.register_buffer("table", table)
        patched = inject(model, "se", reduction=4, input_size=SIZE)
        patched.table = table.t() if table.dim() == 2 else table.view(torch.int32)
        assert failed(verify(model, patched)) == {"weights": "changed or missing: table"}


def test_weights_without_values_are_compared_by_type() -> None:
    with torch.device("meta"):
        model, patched = net()
    verification = verify(model, patched)
    assert figures(verification) == {name: GOOD[name] for name in ("edits", "weights", "shapes")}
    assert verification.passed
    patched.head.weight = nn.Parameter(patched.head.weight.detach().half())
    wrong = failed(verify(model, patched))
    assert wrong["weights"] == "changed or missing: head.weight"
    real = copy.deepcopy(net()[0])
    assert "weights" not in failed(verify(real, net()[1].to("meta")))


def test_weights_of_replaced_modules_are_set_aside() -> None:
    torch.manual_seed(0)
    block = Lambda(
        lambda m, x: x + m.c3(relu(m.c2(relu(m.c22(x))))),
        c22=conv(16, 8, 1),
        c2=conv(8, 8),
        c3=conv(8, 16, 1),
    )
    model = Toy(block)
    patched = inject(model, "psa", placement="replace", input_size=SIZE)
    assert figures(verify(model, patched))["weights"] == "8 tensors kept, 2 of replaced modules set aside"
    assert failed(verify(model, patched)) == {}
    _add("body.c22.bias")(patched)
    assert failed(verify(model, patched)) == {"weights": "changed or missing: body.c22.bias"}


class Noted(nn.Linear):
    """A layer with a state that is no tensor."""

    def get_extra_state(self) -> Any:
        return {"steps": 1}

    def set_extra_state(self, state: Any) -> None: ...


def test_what_is_no_tensor_is_neither_kept_nor_missing() -> None:
    torch.manual_seed(0)
    model = Toy(Block(SPELLINGS["+"]))
    model.head = Noted(16, 5)
    assert "head._extra_state" in model.state_dict()
    patched = inject(model, "se", reduction=4, input_size=SIZE)
    assert figures(verify(model, patched))["weights"] == "18 tensors kept"
    patched.head.__class__ = nn.Linear
    assert failed(verify(model, patched)) == {}


def _ending(mode: str, method: str | None) -> Callable[[InjectedModule], None]:
    """Let the graph end in a method of its output, or give its output in a tuple."""

    def harm(patched: InjectedModule) -> None:
        graph = patched.graph_of(mode)
        end = next(iter(reversed(graph.nodes)))
        (out,) = end.args
        if method is None:
            end.args = ((out,),)
            return
        with graph.inserting_before(end):
            end.args = (graph.create_node("call_method", method, (out,)),)

    return harm


@pytest.mark.parametrize(
    ("harm", "figure"),
    [
        (_ending("eval", "t"), "eval: [(2, 5)] became [(5, 2)]"),
        (_ending("train", "flatten"), "train: [(2, 5)] became [(10,)]"),
        (_ending("eval", None), "eval: [(2, 5)] became [(2, 5)]"),
        (_ending("train", None), "train: [(2, 5)] became [(2, 5)]"),
    ],
)
def test_shapes(harm: Callable[[InjectedModule], None], figure: str) -> None:
    model, patched = net()
    harm(patched)
    patched.recompile()
    verification = verify(model, patched)
    assert failed(verification) == {"shapes": figure}
    # What has other shapes is not run.
    assert list(figures(verification)) == ["edits", "weights", "shapes"]


def test_shapes_of_what_does_not_run() -> None:
    model, patched = net()
    patched.body[0].se = nn.Conv2d(7, 16, 1)
    (figure,) = failed(verify(model, patched)).values()
    first, second = figure.split("; train: ")
    assert first.removeprefix("eval: ") == second
    assert first.startswith("eval: node body_0_se (body.0.se) does not run on an input of shape (2, 3, 16, 16): ")


def test_shapes_of_outputs_in_a_structure() -> None:
    class Two(Toy):
        def forward(self, x: torch.Tensor) -> Any:
            return {"a": super().forward(x), "b": (x, 1)}

    model = Two(Block(SPELLINGS["+"]))
    patched = inject(model, "eca", input_size=SIZE)
    sizes = "(2, 5), (2, 3, 16, 16)"
    assert figures(verify(model, patched))["shapes"] == f"eval {sizes}; train {sizes}"


def test_what_has_lost_its_shapes_is_not_run() -> None:
    model, patched = net()
    verification = verify(model, pickle.loads(pickle.dumps(patched)))
    assert verification.passed
    assert figures(verification) == {**{n: GOOD[n] for n in ("edits", "weights")}, "shapes": "no shapes were traced"}


def _fill(patched: InjectedModule, value: float) -> None:
    with torch.no_grad():
        patched.get_submodule("body.1.se.fc2").weight.fill_(value)


def test_finite() -> None:
    model, patched = net()
    _fill(patched, torch.nan)
    assert failed(verify(model, patched)) == {"finite": "5 non-finite outputs on an input of 1x3x16x16"}


def test_what_was_not_finite_before_is_excused_but_no_more_than_that() -> None:
    model, patched = net()
    with torch.no_grad():
        model.head.bias[:2] = torch.inf
    verification = verify(model, patched)
    assert failed(verification) == {}
    assert figures(verification)["finite"] == "2 non-finite outputs on an input of 1x3x16x16"
    _fill(patched, torch.nan)
    assert failed(verify(model, patched)) == {"finite": "5 non-finite outputs on an input of 1x3x16x16"}


class Partly(nn.Module):
    """An attention with parameters that the output does not depend on."""

    traced_whole = True

    def __init__(self, channels: int, *, unused: int = 1, detached: bool = False) -> None:
        super().__init__()
        self.used = nn.Parameter(torch.ones(1))
        for number in range(unused):
            self.register_parameter(f"idle{number}", nn.Parameter(torch.ones(1)))
        self.detached = detached

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (self.used.detach() if self.detached else self.used)


def partly(model: nn.Module, **options: Any) -> Verification:
    plan = make_plan(model, Partly, include="body.0", input_size=SIZE, **options)
    return verify(model, apply_plan(model, plan, check=False))


@pytest.mark.slow
@pytest.mark.parametrize(("unused", "named"), [(1, 1), (4, 4), (5, 4)])
def test_gradients(unused: int, named: int) -> None:
    listed = ", ".join(f"body.0.partly.idle{number}" for number in range(named))
    assert failed(partly(net()[0], unused=unused)) == {
        "gradients": f"1 of {unused + 1} new parameters reached, 1 with a gradient other than zero; not {listed}"
    }
    assert failed(partly(net()[0], unused=0)) == {}


def test_gradients_that_no_output_has() -> None:
    assert failed(partly(net()[0], unused=0, detached=True)) == {"gradients": "no output depends on a new parameter"}


def test_gradients_of_parameters_that_the_caller_froze() -> None:
    model, patched = net()
    patched.requires_grad_(False)
    assert figures(verify(model, patched)) == GOOD
    assert not any(parameter.requires_grad for parameter in patched.parameters())


def test_gradients_that_are_zero_are_counted_apart() -> None:
    model, patched = net(init="identity")
    assert figures(verify(model, patched)) == {
        **GOOD,
        "gradients": "4 of 4 new parameters reached, 2 with a gradient other than zero",
        "identity": "largest difference from the original 0",
    }


def test_without_new_parameters_there_is_no_check_of_gradients() -> None:
    model, patched = net(attention="se-var1")
    assert list(figures(verify(model, patched))) == ["edits", "weights", "shapes", "trace", "finite"]


def test_identity() -> None:
    model, patched = net(init="identity")
    _fill(patched, 0.5)
    wrong = failed(verify(model, patched))
    x = torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        apart = (patched.eval()(x) - model.eval()(x)).abs().max()
    assert wrong == {"identity": f"largest difference from the original {float(apart):g}"}
    assert apart > 0


def test_identity_of_what_draws_numbers_when_it_predicts() -> None:
    class Sampling(nn.Module):
        """As autoencoders do: their code is drawn around what they find."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.end = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = torch.relu(x + self.b(torch.relu(self.a(x))))
            return self.end(mean + torch.randn_like(mean) * mean.sigmoid())

    torch.manual_seed(0)
    patched: Any = inject(Sampling(), "se", reduction=4, init="identity", input_size=(16, 16, 16))
    assert figures(patched.injection.verification)["identity"] == "largest difference from the original 0"


def test_identity_is_for_numbers_that_there_are() -> None:
    model, patched = net(init="identity")
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    verification = verify(model, patched)
    assert failed(verification) == {}
    assert figures(verification)["identity"] == "largest difference from the original 0"


@pytest.mark.parametrize("weights", [True, False])
def test_identity_is_not_asked_of_what_lost_something(weights: bool) -> None:
    """Whether the attention that was taken out had modules, which are displaced then, or not."""
    torch.manual_seed(0)
    gate = Lambda(
        lambda m, x: x * torch.sigmoid(m.up(x.mean((2, 3), keepdim=True)) if weights else x.mean((2, 3), keepdim=True)),
        up=conv(16, 16, 1),
    )
    model = Toy(Lambda(lambda m, x: x + m.se(m.b(relu(m.a(x)))), a=conv(16, 16), b=conv(16, 16), se=gate))
    for attention, last in (("none", []), ("eca", ["gradients"])):
        patched = inject(model, attention, existing="replace", init="identity", input_size=SIZE)
        assert bool(patched.displaced) is weights
        names = list(figures(verify(model, patched)))
        assert names == ["edits", "weights", "shapes", "trace", "finite", *last]


class Needs(nn.Module):
    """Runs at sizes from `least` on only."""

    traced_whole = True

    def __init__(self, least: int, error: type[Exception]) -> None:
        super().__init__()
        self.least, self.error = least, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] < self.least:
            raise self.error("too small")
        return x


@pytest.mark.parametrize(
    ("size", "least", "figure"),
    [
        ((16, 16), 0, "16x16"),
        ((32, 32), 0, "32x32"),
        ((33, 33), 0, "32x32"),
        ((40, 80), 0, "16x32"),
        ((41, 80), 0, "17x32"),
        ((80, 40), 0, "32x16"),
        ((100, 100), 33, "64x64"),
        ((200, 200), 65, "128x128"),
        ((200, 200), 129, "192x192"),
        ((200, 200), 193, "200x200"),
        ((64, 64), 33, "64x64"),
    ],
)
def test_the_smallest_pass_that_runs(size: tuple[int, int], least: int, figure: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Needs(least, RuntimeError), Lambda(lambda m, x: x + m.a(relu(x)), a=conv(3, 3, 1)))
    patched = inject(model, "eca", input_size=(3, *size))
    assert figures(verify(model, patched))["finite"] == f"0 non-finite outputs on an input of 1x3x{figure}"


class OwnError(Exception):
    """What somebody's code raises, of no kind that anybody else knows."""


@pytest.mark.parametrize("error", [RuntimeError, ValueError, AssertionError, KeyError, ZeroDivisionError, OwnError])
@pytest.mark.slow
def test_no_size_that_is_refused_is_a_verdict(error: type[Exception]) -> None:
    model = nn.Sequential(Needs(33, error), Lambda(lambda m, x: x + m.a(relu(x)), a=conv(3, 3, 1)))
    patched = inject(model, "eca", input_size=(3, 40, 40))
    assert figures(verify(model, patched))["finite"] == "0 non-finite outputs on an input of 1x3x40x40"
    assert verify(model, attach(model, "eca", input_size=(3, 40, 40))).passed


class Fails(nn.Module):
    """Runs on shapes; on values it raises."""

    traced_whole = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_meta:
            raise KeyError("on values")
        return x


def test_what_fails_at_the_size_that_was_traced_is_named_with_whose_it_is() -> None:
    block = Lambda(lambda m, x: x + m.a(relu(x)), a=conv(3, 3, 1))
    with pytest.raises(TraceError, match=r"the model itself ends in KeyError on 2x3x8x8: 'on values'$") as caught:
        inject(nn.Sequential(Fails(), block), "eca", input_size=(3, 8, 8))
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(RewriteError, match=r"the patched graph ends in KeyError on 2x3x8x8, where the model's") as ours:
        inject(block, lambda channels: Fails(), input_size=(3, 8, 8))
    assert isinstance(ours.value.__cause__, KeyError)


class Once(nn.Module):
    """In train mode it runs on values once."""

    traced_whole = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and not x.is_meta:
            if RAN:
                raise OwnError("again")
            RAN.append(True)
        return x


RAN: list[bool] = []


def test_a_graph_that_fails_where_the_code_ran_is_named_with_its_mode() -> None:
    block = Lambda(lambda m, x: x + m.a(relu(x)), a=conv(3, 3, 1))
    RAN.clear()
    with pytest.raises(RewriteError, match=r"the graph in train mode ends in OwnError on 2x3x8x8, where the model's"):
        inject(nn.Sequential(Once(), block), "eca", input_size=(3, 8, 8))


class Trains(nn.Module):
    """Decides on the size in one mode only."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.a = least, conv(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and x.shape[-1] < self.least:
            return x + self.a(relu(x)) * 2
        return x + self.a(relu(x))


def test_a_size_at_which_the_train_graph_does_not_hold_is_no_verdict() -> None:
    patched = inject(Trains(33), "eca", input_size=(3, 40, 40))
    assert patched.injection.verification is not None
    assert (
        figures(patched.injection.verification)["trace"]
        == "eval equal to the bit on 1x3x32x32; train equal to the bit on 2x3x40x40"
    )


def test_passes_in_one_and_three_dimensions() -> None:
    for size, figure in (((64,), "32"), ((40, 8, 4), "32x7x4")):
        d = len(size)
        model = Lambda(lambda m, x: x + m.a(relu(x)), a=conv(3, 3, 1, d=d))
        patched = inject(model, "eca", input_size=(3, *size))
        assert figures(verify(model, patched))["finite"] == f"0 non-finite outputs on an input of 1x3x{figure}"


@pytest.mark.slow
def test_passes_of_several_inputs_are_of_the_size_and_type_that_was_traced() -> None:
    class Typed(nn.Module):
        traced_whole = True

        def forward(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
            assert (x.dtype, index.dtype) == (torch.float64, torch.int64)
            return x

    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.names, self.typed = conv(3, 3, 1), nn.Embedding(2, 3), Typed()

        def forward(self, x: torch.Tensor, index: torch.Tensor, scale: float) -> torch.Tensor:
            x = self.typed(x, index)
            return x + self.a(relu(x)) * scale + self.names(index)[:, :, None, None]

    model = Three().double()
    inputs = (torch.zeros(4, 3, 40, 40, dtype=torch.float64), torch.ones(4, dtype=torch.int64), 0.5)
    patched = inject(model, "eca", init="identity", example_inputs=inputs)
    assert figures(verify(model, patched))["finite"] == "0 non-finite outputs on an input of 4x3x40x40"
    assert figures(verify(model, patched))["identity"] == "largest difference from the original 0"


def test_nothing_of_the_callers_changes() -> None:
    model, patched = net(init="identity")
    seen: list[str] = []
    for each in (model, patched):
        each.get_submodule("stem").register_forward_hook(lambda *_: seen.append("forward"))
        each.get_submodule("stem").register_full_backward_hook(lambda *_: seen.append("backward"))
        each.get_submodule("head").register_full_backward_pre_hook(lambda *_: seen.append("before backward"))
    values = [copy.deepcopy(each.state_dict()) for each in (model, patched)]
    state = torch.get_rng_state()
    flags = [parameter.requires_grad for parameter in patched.parameters()]
    assert verify(model, patched).passed
    assert seen == []
    assert torch.equal(torch.get_rng_state(), state)
    assert [parameter.requires_grad for parameter in patched.parameters()] == flags
    for each, before in zip((model, patched), values, strict=True):
        assert all(module.training for module in each.modules())
        assert all(parameter.grad is None for parameter in each.parameters())
        assert all(torch.equal(tensor, before[name]) for name, tensor in each.state_dict().items())
        assert len(each.get_submodule("stem")._forward_hooks) == 1


def test_a_part_is_compared_with_the_part_that_it_was() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"net": Toy(Block(SPELLINGS["+"]))})
    patched = inject(model, "se", reduction=4, scope="net", input_size=SIZE)
    assert figures(verify(model, patched))["weights"] == "18 tensors kept"
    assert verify(nn.DataParallel(model), patched).passed
    _add("net.head.bias")(patched)
    assert failed(verify(model, patched)) == {"weights": "changed or missing: head.bias"}


class Block16(nn.Module):
    """A stem and one block of 16 channels, which `run` calls."""

    def __init__(self, run: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.block = Lambda(lambda m, x: x + m.b(relu(m.a(x))), a=conv(16, 16), b=conv(16, 16))
        self.run = run

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(self, self.stem(x))


def test_a_block_may_run_more_often_in_train_mode() -> None:
    """As the decoder of a variational network, which reconstructs beside what it computes."""
    model = Block16(lambda m, x: m.block(m.block(x)) if m.training else m.block(x))
    patched = inject(model, "eca", input_size=SIZE)
    calls = {mode: [n.target for n in patched.graph_of(mode).nodes].count("block.eca") for mode in ("eval", "train")}
    assert calls == {"eval": 1, "train": 2}
    assert figures(patched.injection.verification)["edits"] == "1 modules in both graphs"


def test_a_graph_that_is_not_the_model_is_found() -> None:
    """What code may ask that no trace answers truly: the class that a value says it is of."""
    model = Block16(lambda m, x: m.block(x) if x.__class__ is torch.Tensor else m.block(x) * 2)
    with pytest.raises(RewriteError, match=r"verification of trace failed: in eval mode the graph and the model's own"):
        inject(model, "eca", input_size=SIZE)


def test_what_the_trace_gave_is_not_worked_out_again() -> None:
    """Of a fresh rewrite only new nodes, and what they change, are run; of others all are."""
    model, patched = net()
    wrong = copy.deepcopy(patched)
    wrong.head = nn.Linear(16, 7)
    assert "shapes" in failed(verify(model, wrong))
    assert figures(verify_part(model, patched, fresh=True)) == figures(verify_part(model, patched)) == GOOD
    last = [node for node in patched.graph_of("eval").nodes if is_of_attention(node)][-1]
    with patched.graph_of("eval").inserting_after(last):
        half = patched.graph_of("eval").call_function(torch.narrow, (last, 1, 0, 8))
    last.replace_all_uses_with(half, delete_user_cb=lambda user: user is not half)
    assert "shapes" in failed(verify_part(model, patched, fresh=True))
