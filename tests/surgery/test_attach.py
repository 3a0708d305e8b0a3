"""attach: the same class, the attention in its tree, every method aware of it."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import replace
from types import MethodType
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from attn_inject import PlanError, attach, detach, inject
from attn_inject.errors import ArgumentError
from attn_inject.planning.choices import Choices
from attn_inject.planning.plan import locate_and_plan
from attn_inject.surgery.attach import attach_plan
from attn_inject.surgery.provenance import fingerprint, versions

from ..toys import Lambda, Toy, conv

SIZE = (3, 64, 64)


def _build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("timm:"):
        options: dict[str, Any] = {"zero_init_last": False} if "resnet" in name else {}
        return timm.create_model(name.removeprefix("timm:"), **options).eval()
    return torchvision.models.get_model(name).eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "timm:resnet18",
        "timm:resnet26d",
        "resnet18",
        pytest.param("convnext_tiny", marks=pytest.mark.zoo),
        "mobilenet_v2",
        "squeezenet1_1",
    ],
)
def test_same_class_and_the_outputs_of_inject(name: str) -> None:
    model = _build(name)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    attached = attach(model, "eca", input_size=SIZE)
    patched = inject(model, "eca", input_size=SIZE).eval()
    assert type(attached) is type(model)
    assert list(attached.state_dict()) == list(patched.state_dict()) or set(attached.state_dict()) == set(
        patched.state_dict()
    )
    patched.load_state_dict(attached.state_dict())
    x = torch.randn(2, *SIZE)
    for twin in (attached, copy.deepcopy(attached), pickle.loads(pickle.dumps(attached))):
        assert torch.equal(twin(x), patched(x))
    assert not torch.equal(attached(x), model(x))
    assert torch.equal(detach(attached)(x), model(x))
    assert list(detach(attached).state_dict()) == list(state)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


def test_methods_see_the_attention() -> None:
    model = _build("timm:resnet18")
    attached = attach(model, "se", input_size=SIZE)
    x = torch.randn(1, *SIZE)
    assert not torch.allclose(attached.forward_features(x), model.forward_features(x))
    assert torch.equal(attached.forward_head(attached.forward_features(x)), attached(x))
    assert attached.get_classifier() is attached.fc


def test_training_moves_what_is_new() -> None:
    attached = attach(_build("resnet18"), "se", input_size=SIZE).train()
    attached(torch.randn(2, *SIZE)).sum().backward()
    assert attached.layer1[0].se.fc1.weight.grad is not None


def test_what_was_never_attached_is_not_detached() -> None:
    with pytest.raises(PlanError, match="nothing was attached"):
        detach(_build("resnet18"))


SMALL = (3, 16, 16)
relu = torch.relu


def _residual(**more: nn.Module | None) -> Lambda:
    block = Lambda(lambda m, x: x + m.b(relu(m.a(x))), a=conv(16, 16), b=conv(16, 16))
    for name, module in more.items():
        setattr(block, name, module)
    return block


def _code(attached: nn.Module, path: str) -> str:
    """The code that a module runs, which is its class's."""
    module = attached.get_submodule(path)
    assert not any(each._forward_hooks for each in attached.modules())
    return inspect.getsource(type(module).forward)


def _as_inject_does(model: nn.Module, attached: nn.Module, **choices: Any) -> None:
    patched = inject(model, "se", reduction=4, input_size=SMALL, **choices)
    patched.load_state_dict(attached.state_dict())
    x = torch.randn(2, *SMALL)
    assert torch.equal(attached(x), patched(x))
    assert not torch.equal(attached(x), model(x))
    assert torch.equal(detach(attached)(x), model(x))


def test_a_channels_last_value_is_gated_over_its_channels() -> None:
    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        y = m.fc(relu(m.dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))
        return (x + y).permute(0, 3, 1, 2)

    torch.manual_seed(0)
    model = Toy(Lambda(run, dw=conv(16, 16), fc=nn.Linear(16, 16))).eval()
    attached = attach(model, "se", reduction=4, input_size=SMALL)
    assert "    out = out.permute(0, 3, 1, 2)\n    out = self.se(out)\n" in _code(attached, "body")
    _as_inject_does(model, attached)


def test_the_record_and_what_detach_leaves() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(_residual(se=None), _residual(se=nn.Identity()), _residual())
    kept = body[1].se
    body[0].b.register_forward_hook(lambda *_: None)
    model = nn.ModuleDict({"net": Toy(body)})
    attached = attach(model, "se", reduction=4, scope="net", input_size=SMALL)
    record: Any = attached.injection
    assert (record.plan.scope, [i.module for i in record.plan.insertions]) == (
        "net",
        [f"body.{i}.se" for i in range(3)],
    )
    assert (record.versions, record.fingerprint) == (versions(), fingerprint(model))
    assert [(check.name, check.passed) for check in record.verification.checks] == [
        ("inject", True),
        ("gradients", True),
    ]
    assert not hasattr(model, "injection")
    before = list(attached.state_dict())
    bare = detach(attached)
    assert list(bare.state_dict()) == list(model.state_dict())
    assert list(attached.state_dict()) == before
    assert not {"injection", "_attached"} & set(vars(bare))
    blocks: Any = bare.get_submodule("net.body")
    assert (blocks[0].se, type(blocks[1].se), hasattr(blocks[2], "se")) == (None, nn.Identity, False)
    assert blocks[1].se is not kept
    assert body[1].se is kept
    # The caller's own hook stays.
    assert [len(block.b._forward_hooks) for block in blocks] == [1, 0, 0]
    attended: Any = attached.get_submodule("net.body")
    assert [len(block.b._forward_hooks) for block in attended] == [1, 0, 0]
    assert [type(block) for block in blocks] == [type(block) for block in body]
    assert all(isinstance(block, Lambda) and type(block) is not Lambda for block in attended)
    for other, name in ((bare, "ModuleDict"), (inject(Toy(_residual()), "eca", input_size=SMALL), "Toy")):
        with pytest.raises(PlanError) as caught:
            detach(other)
        assert str(caught.value) == (f"nothing was attached to this {name}: remove() is for what inject() gave")


def test_a_name_that_the_class_runs_itself_is_not_gated_twice() -> None:
    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        y = m.b(relu(m.a(x)))
        return x + (y if m.se is None else m.se(y))

    torch.manual_seed(0)
    model = Toy(Lambda(run, a=conv(16, 16), b=conv(16, 16))).eval()
    model.body.se = None  # type: ignore[assignment]
    attached = attach(model, "se", reduction=4, input_size=SMALL)
    assert not any(module._forward_hooks for module in attached.modules())
    _as_inject_does(model, attached)


def test_a_name_that_the_class_runs_at_another_place_runs_where_it_was_planned() -> None:
    """timm's mobile networks keep the place of an `se` in the middle of their blocks."""

    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x) if m.se is None else m.se(m.a(x))
        return x + m.b(relu(y))

    for held in (None, nn.Identity()):
        torch.manual_seed(0)
        model = Toy(Lambda(run, a=conv(16, 16), b=conv(16, 16))).eval()
        model.body.se = held  # type: ignore[assignment]
        attached = attach(model, "se", reduction=4, input_size=SMALL)
        assert _code(attached, "body").count("self.se") == 1
        _as_inject_does(model, attached)


@pytest.mark.parametrize(
    ("run", "placement"),
    [
        pytest.param(lambda m, x: x + torch.tanh(m.b(relu(m.a(x)))), "standard", id="a functional value"),
        pytest.param(lambda m, x: x + m.b(relu(m.b(relu(m.a(x))))), "standard", id="run twice in one block"),
        pytest.param(lambda m, x: x + m.b(relu(m.a(x))), "pre", id="the branch alone reads the gate"),
        pytest.param(lambda m, x: relu(x + m.b(relu(m.a(x)))), "post", id="after the activation"),
        pytest.param(
            lambda m, x: x + (m.b(relu(m.a(x))) if m.training else m.a(relu(m.b(x)))), "standard", id="other in train"
        ),
        pytest.param(lambda m, x: x + m.b(F.dropout(relu(m.a(x)), 0.5, m.training)), "standard", id="a switch"),
        pytest.param(lambda m, x: x + m.b(relu(m.a(x))), "conv3x3", id="no conv3x3"),
    ],
)
def test_values_that_no_hook_reaches(run: Any, placement: Any) -> None:
    torch.manual_seed(0)
    model = Toy(Lambda(run, a=conv(16, 16), b=conv(16, 16))).eval()
    if placement == "conv3x3":
        with pytest.raises(PlanError, match="needs a block with one spatial convolution"):
            attach(model, "se", reduction=4, input_size=SMALL, placement=placement)
        return
    attached = attach(model, "se", reduction=4, input_size=SMALL, placement=placement)
    assert "self.se(" in _code(attached, "body")
    _as_inject_does(model, attached, placement=placement)


def test_where_the_modes_differ_in_a_switch_the_code_asks_for_it() -> None:
    run = lambda m, x: x + m.b(F.dropout(relu(m.a(x)), 0.5, m.training))  # noqa: E731
    attached = attach(Toy(Lambda(run, a=conv(16, 16), b=conv(16, 16))), "se", reduction=4, input_size=SMALL)
    code = _code(attached, "body")
    assert "training=self.training" in code
    assert "if self.training" not in code
    other = lambda m, x: x + m.b(relu(m.a(x)) if m.training else torch.tanh(m.a(x)))  # noqa: E731
    attached = attach(Toy(Lambda(other, a=conv(16, 16), b=conv(16, 16))), "se", reduction=4, input_size=SMALL)
    assert "if self.training" in _code(attached, "body")


def test_what_others_read_too_but_all_of_them_gated_is_reached() -> None:
    torch.manual_seed(0)
    body = Lambda(lambda m, x: m.c(x) + m.b(relu(m.a(x))), **{name: conv(16, 16) for name in "abc"})
    model = Toy(body).eval()
    attached = attach(model, "se", reduction=4, placement="identity", input_size=SMALL)
    assert "self.se(" in _code(attached, "body")
    _as_inject_does(model, attached, placement="identity")


def test_a_block_that_runs_twice_is_gated_twice() -> None:
    torch.manual_seed(0)
    model = Toy(Lambda(lambda m, x: m.block(m.block(x)), block=_residual())).eval()
    attached = attach(model, "se", reduction=4, input_size=SMALL)
    assert "self.se(" in _code(attached, "body.block")
    _as_inject_does(model, attached)


def test_a_branch_that_is_a_module_is_gated_in_its_block() -> None:
    torch.manual_seed(0)
    branch = Lambda(lambda m, x: torch.tanh(m.a(x)), a=conv(16, 16))
    model = Toy(Lambda(lambda m, x: x + m.branch(x), branch=branch)).eval()
    attached = attach(model, "se", reduction=4, input_size=SMALL)
    assert "    out = self.branch(x)\n    out = self.se(out)\n" in _code(attached, "body")
    assert type(attached.get_submodule("body.branch")) is Lambda
    _as_inject_does(model, attached)


def test_attach_takes_nothing_out() -> None:
    gate = Lambda(lambda m, x: x * torch.sigmoid(m.up(x.mean((2, 3), keepdim=True))), up=conv(16, 16, 1))
    model = Toy(Lambda(lambda m, x: x + m.se(m.b(relu(m.a(x)))), a=conv(16, 16), b=conv(16, 16), se=gate))
    with pytest.raises(PlanError) as caught:
        attach(model, "none", existing="replace", input_size=SMALL)
    assert str(caught.value) == "attach only puts attention in: use inject to take it out"
    torch.manual_seed(0)
    attached = attach(model.eval(), "eca", existing="replace", input_size=SMALL)
    patched = inject(model, "eca", existing="replace", input_size=SMALL)
    assert list(attached.state_dict()) == list(patched.state_dict())
    patched.load_state_dict(attached.state_dict())
    x = torch.randn(2, *SMALL)
    assert torch.equal(attached(x), patched(x))
    assert torch.equal(detach(attached)(x), model(x))


def test_a_plan_that_puts_nothing_in_is_not_attached() -> None:
    model = Toy(_residual())
    located, plan = locate_and_plan(model, Choices(attention="eca", input_size=SMALL))
    for other in (replace(plan, insertions=()), replace(plan, removals=(plan.insertions[0].site,))):
        with pytest.raises(PlanError) as caught:
            attach_plan(located, other)
        assert str(caught.value) == "attach only puts attention in: use inject to take it out"
    assert type(attach_plan(located, plan)) is Toy


class SharedActivation(nn.Module):
    """One activation for a whole network, as YOLOs have it: a hook on it would gate in every block."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.SiLU()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(ActivatedLast(width, self.act) for width in (16, 16))
        self.head = nn.Conv2d(16, 32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.act(self.head(x))


class ActivatedLast(nn.Module):
    def __init__(self, width: int, act: nn.Module) -> None:
        super().__init__()
        self.body = ConvAct(width, act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class ConvAct(nn.Module):
    def __init__(self, width: int, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(width, width, 3, padding=1), act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(x))


def test_a_module_that_also_runs_elsewhere_stays_as_it_is() -> None:
    torch.manual_seed(0)
    model = SharedActivation().eval()
    attached = attach(model, "se", reduction=4, init="identity", input_size=16)
    assert "self.se(" in _code(attached, "blocks.0")
    assert type(attached.act) is nn.SiLU
    image = torch.randn(2, 3, 16, 16)
    assert torch.equal(attached(image), model(image))
    torch.manual_seed(1)
    patched = inject(model, "eca", input_size=16).eval()
    torch.manual_seed(1)
    gated = attach(model, "eca", input_size=16).eval()
    assert torch.equal(gated(image), patched(image))
    assert not torch.equal(gated(image), model(image))


def test_a_sequential_runs_the_attention_as_one_more_element() -> None:
    torch.manual_seed(0)
    flat = nn.Sequential(conv(3, 16), nn.ReLU(), nn.MaxPool2d(2), conv(16, 32), nn.ReLU()).eval()
    image = torch.randn(2, 3, 16, 16)
    for name in ("se", "eca"):
        attached = attach(flat, name, kinds=("stage",), input_size=16)
        assert type(attached) is nn.Sequential
        assert list(dict(attached.named_children())) == ["0", "1", name, "2", "3", "4", f"{name}2"]
        patched = inject(flat, name, kinds=("stage",), input_size=16).eval()
        patched.load_state_dict(attached.state_dict())
        assert torch.equal(attached(image), patched(image))
        assert torch.equal(attached[3:](attached[:3](image)), attached(image))
        assert list(dict(detach(attached).named_children())) == ["0", "1", "2", "3", "4"]


class Joining(nn.Sequential):
    """Holds branches and joins what they give: what it holds more would be one more branch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self], 1)


def test_a_container_with_a_forward_of_its_own_does_not_run_the_attention_as_its_own() -> None:
    torch.manual_seed(0)
    branches = [nn.Sequential(conv(16, 8), nn.ReLU(), conv(8, 8)) for _ in range(2)]
    model = Toy(Joining(*branches)).eval()
    attached = attach(model, "se", reduction=4, input_size=SMALL)
    assert len(attached.injection.plan.insertions) == 1
    _as_inject_does(model, attached)


def test_a_copy_has_weights_of_its_own() -> None:
    model = Toy(_residual())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for verb in (inject, attach):
        patched = verb(model, "se", reduction=4, input_size=SMALL, copy=True).train()
        optimizer = torch.optim.SGD(patched.parameters(), 0.1)
        patched(torch.randn(2, *SMALL)).sum().backward()
        optimizer.step()
        assert not torch.equal(patched.stem.weight, model.stem.weight)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_attached_twice_in_one_part() -> None:
    torch.manual_seed(0)
    model = Toy(nn.Sequential(_residual(), _residual())).eval()
    first = attach(model, "se", reduction=4, input_size=SMALL, include="body.0")
    both = attach(first, "eca", input_size=SMALL)
    record: Any = both.injection
    assert [(i.module, i.attention) for i in record.plan.insertions] == [("body.0.se", "se"), ("body.1.eca", "eca")]
    x = torch.randn(2, *SMALL)
    assert not torch.equal(both(x), first(x))
    assert torch.equal(detach(both)(x), model(x))


def test_a_frozen_argument_is_no_other_in_silence() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(16, 16), conv(16, 16)

        def forward(self, x: torch.Tensor, twice: bool = False) -> torch.Tensor:
            y = self.b(relu(self.a(x)))
            return x + (y + y if twice else y)

    model = Toy(Scaled()).eval()
    attached = attach(model, "se", reduction=4, input_size=SMALL)
    block: Any = attached.body
    assert str(inspect.signature(block.forward)) == "(x, twice=False)"
    with pytest.raises(
        ArgumentError, match=r"^the forward with attention was made with twice=False and is given True: "
    ):
        block(torch.randn(1, 16, 8, 8), twice=True)


class Sized(nn.Module):
    """Decides on the size of its map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(16, 16), conv(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = relu(self.a(x)) if x.shape[2] % 2 else torch.tanh(self.a(x))
        return x + self.b(y)


def test_a_block_that_decides_on_sizes_runs_its_own_code_around_the_attention() -> None:
    torch.manual_seed(0)
    model = Toy(nn.Sequential(Sized(), Sized())).eval()
    attached: Any = attach(model, "se", reduction=4, input_size=SMALL, include="body.0")
    (reason,) = attached.injection.not_kept
    assert reason.startswith("body.0: its own forward runs, since its code decides on what it is given (")
    assert "test_attach.py" in reason
    assert "`y = relu(self.a(x)) if x.shape[2] % 2 else torch.tanh(self.a(x))`)" in reason
    assert "passed_through(self.get_submodule('b'), self.se)" in _code(attached, "body.0")
    assert str(inspect.signature(attached.body[0].forward)) == "(x: 'torch.Tensor') -> 'torch.Tensor'"
    patched = inject(model, "se", reduction=4, input_size=(3, 15, 15), include="body.0")
    patched.load_state_dict(attached.state_dict())
    odd = torch.randn(1, 3, 15, 15)
    for twin in (attached, copy.deepcopy(attached), pickle.loads(pickle.dumps(attached))):
        assert torch.equal(twin(odd), patched(odd))
    attached.body[0].b = nn.Identity()
    before = attached(odd)
    with torch.no_grad():
        attached.body[0].se.fc2.weight.add_(1)
    assert not torch.equal(attached(odd), before)
    with pytest.raises(PlanError, match=r"detach\(\) it, and attach all in one call"):
        attach(attached, "se", reduction=4, input_size=SMALL)
    assert type(detach(attached).body[0]) is Sized


class Odd(nn.Parameter):
    """Somebody's own kind of parameter."""


class Drawing(nn.Module):
    """Draws in numpy, where no trace follows: it is recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Toy(_residual())
        self.body.stem.weight = Odd(self.body.stem.weight.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.body(x) * (1 + np.random.rand() * 0)  # noqa: NPY002
        return made


def test_what_the_caller_has_stays_as_it_is_while_attached_models_are_compared() -> None:
    torch.manual_seed(0)
    plain: Any = Toy(_residual())
    plain.stem.weight = Odd(torch.full_like(plain.stem.weight, 1e-3))
    plain.body.register_buffer("seen", torch.zeros(1))
    weights = {name: value.clone() for name, value in plain.state_dict().items()}
    gates = attach(plain, "se", reduction=4, input_size=SMALL)
    assert type(plain.stem.weight) is Odd
    assert all(torch.equal(value, weights[name]) for name, value in plain.state_dict().items())
    assert float(gates.get_submodule("body.se.fc1").weight.abs().max()) < 1
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    attach(Drawing().eval(), "se", reduction=4, input_size=SMALL, init="identity")
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002


def test_a_copy_of_somebodys_own_kind_of_parameter_is_a_copy() -> None:
    model: Any = Toy(_residual())
    model.stem.weight = Odd(model.stem.weight.detach())
    made: Any = attach(model, "se", reduction=4, input_size=SMALL, copy=True)
    assert type(made.stem.weight) is Odd
    assert made.stem.weight.data_ptr() != model.stem.weight.data_ptr()


def test_what_could_not_be_compared_is_said() -> None:
    class WantsTargets(Drawing):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return super().forward(x)

    recorded: Any = attach(WantsTargets().eval(), "se", reduction=4, input_size=SMALL)
    assert recorded.injection.not_kept == (
        "a comparison with what inject gives: in train mode its own code does not run on what it was recorded on",
    )
    recorded = attach(Drawing().eval(), "se", reduction=4, input_size=SMALL)
    assert recorded.injection.not_kept == ()
    (check,) = recorded.injection.verification.checks
    assert check.figure == "1 modules run as planned in eval mode; train equal to the bit"
    with torch.device("meta"):
        model = Toy(_residual())
    shapes: Any = attach(model, "se", reduction=4, input_size=SMALL)
    assert shapes.injection.verification is None
    assert shapes.injection.not_kept == ("a comparison with what inject gives: the model has shapes only",)
    compared: Any = attach(Toy(_residual()), "se", reduction=4, input_size=SMALL)
    assert compared.injection.not_kept == ()


def test_blocks_of_one_class_share_one_more_if_they_do_the_same() -> None:
    model = Toy(
        nn.Sequential(
            Sized(), *(Lambda(lambda m, x: x + m.b(relu(m.a(x))), a=conv(16, 16), b=conv(16, 16)) for _ in "ab")
        )
    )
    attached: Any = attach(model, "se", reduction=4, input_size=SMALL, include=["body.1", "body.2"])
    assert type(attached.body[1]) is type(attached.body[2])

    def made(function: Any) -> Lambda:
        def act(x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = function(x)
            return made

        fx_kept = Kept(act)
        return Lambda(lambda m, x: x + m.b(m.act(m.a(x))), a=conv(16, 16), b=conv(16, 16), act=fx_kept)

    two = Toy(nn.Sequential(made(torch.relu), made(torch.tanh))).eval()
    _as_inject_does(two, attach(two, "se", reduction=4, input_size=SMALL))


class Kept(nn.Module):
    """Runs a function that it was given."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.function(x)
        return made


def test_a_block_with_a_forward_of_its_own_is_left_out_and_said() -> None:
    """As accelerate's hooks leave it: what that does besides would be lost with it."""
    model: Any = Toy(nn.Sequential(_residual(), _residual())).eval()
    own = model.body[0]
    own.forward = MethodType(lambda m, x: x + m.b(relu(m.a(x))), own)
    attached: Any = attach(model, "se", reduction=4, input_size=SMALL)
    assert [insertion.module for insertion in attached.injection.plan.insertions] == ["body.1.se"]
    assert attached.injection.plan.notes[-1] == ("left out: body.0 has a forward of its own, beside its class's")
    assert not hasattr(attached.body[0], "se")
    x = torch.randn(2, *SMALL)
    assert torch.equal(detach(attached)(x), model(x))
