"""attach: the same class, the attention in its tree, every method aware of it."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from attn_inject import PlanError, attach, detach, inject
from attn_inject.planning.choices import Choices
from attn_inject.planning.plan import locate_and_plan
from attn_inject.surgery.attach import Gate, attach_plan
from attn_inject.surgery.provenance import fingerprint, versions

from .. import toys
from ..toys import Lambda, Toy, conv

SIZE = (3, 64, 64)


def _build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("timm:"):
        options: dict[str, Any] = {"zero_init_last": False} if "resnet" in name else {}
        return timm.create_model(name.removeprefix("timm:"), **options).eval()
    return torchvision.models.get_model(name).eval()


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


def test_what_cannot_be_reached_is_refused() -> None:
    body = toys.Lambda(lambda m, x: x + torch.tanh(m.a(x)), a=toys.conv(16, 16))
    with pytest.raises(PlanError, match="no module returns the value"):
        attach(toys.Toy(body), "eca", input_size=(3, 16, 16))
    with pytest.raises(PlanError, match="runs its own 'se' at another place"):
        attach(timm.create_model("rexnet_100"), "se", min_width=1, input_size=SIZE)
    with pytest.raises(PlanError, match="nothing was attached"):
        detach(_build("resnet18"))


SMALL = (3, 16, 16)
relu = torch.relu


def _residual(**more: nn.Module | None) -> Lambda:
    block = Lambda(lambda m, x: x + m.b(relu(m.a(x))), a=conv(16, 16), b=conv(16, 16))
    for name, module in more.items():
        setattr(block, name, module)
    return block


def _as_inject_does(model: nn.Module, attached: nn.Module, **choices: Any) -> None:
    patched = inject(model, "se", reduction=4, input_size=SMALL, **choices)
    patched.load_state_dict(attached.state_dict())
    x = torch.randn(2, *SMALL)
    assert torch.equal(attached(x), patched(x))
    assert not torch.equal(attached(x), model(x))
    assert torch.equal(detach(attached)(x), model(x))


class _Axes(nn.Module):
    """Adds one to the second channel, whichever axes follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x.clone()
        out[:, 1] += 1
        return out


def test_a_gate_passes_the_output_through_the_attention_of_the_block() -> None:
    holder = nn.Module()
    holder.se = _Axes()
    x = torch.zeros(2, 3, 4, 5)
    gate = Gate(holder, "se", None)
    assert torch.equal(gate(holder, (), x), holder.se(x))
    out = Gate(holder, "se", (0, 3, 1, 2))(holder, (), x)
    assert out.shape == x.shape
    assert torch.equal(out[..., 1], torch.ones(2, 3, 4))
    assert out.sum() == 2 * 3 * 4
    # What stands there when it runs, not what stood there when it was made.
    holder.se = nn.Identity()
    assert torch.equal(gate(holder, (), x), x)


def test_a_channels_last_value_is_gated_over_its_channels() -> None:
    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        y = m.fc(relu(m.dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))
        return (x + y).permute(0, 3, 1, 2)

    torch.manual_seed(0)
    model = Toy(Lambda(run, dw=conv(16, 16), fc=nn.Linear(16, 16))).eval()
    attached = attach(model, "se", reduction=4, input_size=SMALL)
    (gate,) = attached.body.fc._forward_hooks.values()
    assert (gate.holder, gate.child, gate.order) == (attached.body, "se", (0, 3, 1, 2))
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
    assert (record.versions, record.fingerprint, record.verification) == (versions(), fingerprint(model), None)
    assert not hasattr(model, "injection")
    before = list(attached.state_dict())
    bare = detach(attached)
    assert list(bare.state_dict()) == list(model.state_dict())
    assert list(attached.state_dict()) == before
    assert not {"injection", "_attached_places"} & set(vars(bare))
    blocks: Any = bare.get_submodule("net.body")
    assert (blocks[0].se, type(blocks[1].se), hasattr(blocks[2], "se")) == (None, nn.Identity, False)
    assert blocks[1].se is not kept
    assert body[1].se is kept
    # The caller's own hook stays.
    assert [len(block.b._forward_hooks) for block in blocks] == [1, 0, 0]
    attended: Any = attached.get_submodule("net.body")
    assert [len(block.b._forward_hooks) for block in attended] == [2, 1, 1]
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


def test_a_name_that_the_class_runs_at_another_place_is_refused() -> None:
    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x) if m.se is None else m.se(m.a(x))
        return x + m.b(relu(y))

    model = Toy(Lambda(run, a=conv(16, 16), b=conv(16, 16)))
    model.body.se = None  # type: ignore[assignment]
    with pytest.raises(PlanError) as caught:
        attach(model, "se", reduction=4, input_size=SMALL)
    assert str(caught.value) == (
        "the code of block body runs its own 'se' at another place: give the new modules another name with name="
    )
    named = attach(model, "se", reduction=4, input_size=SMALL, name="gate")
    assert len(named.get_submodule("body.b")._forward_hooks) == 1


UNREACHED = "no module returns the value to gate there, or others read it too: attach cannot reach it; use inject"


@pytest.mark.parametrize(
    ("run", "choices", "sentence"),
    [
        (lambda m, x: x + torch.tanh(m.b(relu(m.a(x)))), {}, f"body: {UNREACHED}"),
        # Run twice in one call of its block.
        (lambda m, x: x + m.b(relu(m.b(relu(m.a(x))))), {}, f"body: {UNREACHED}"),
        # The branch alone reads the gate, and the shortcut does not.
        (lambda m, x: x + m.b(relu(m.a(x))), {"placement": "pre"}, f"body: {UNREACHED}"),
        (
            lambda m, x: x + (m.b(relu(m.a(x))) if m.training else m.a(relu(m.b(x)))),
            {},
            "body.eca: another module makes the gated value in train mode; use inject",
        ),
    ],
)
def test_values_that_no_hook_reaches(run: Any, choices: dict[str, Any], sentence: str) -> None:
    model = Toy(Lambda(run, a=conv(16, 16), b=conv(16, 16)))
    with pytest.raises(PlanError) as caught:
        attach(model, "eca", input_size=SMALL, **choices)
    assert str(caught.value) == sentence


def test_what_others_read_too_but_all_of_them_gated_is_reached() -> None:
    torch.manual_seed(0)
    body = Lambda(lambda m, x: m.c(x) + m.b(relu(m.a(x))), **{name: conv(16, 16) for name in "abc"})
    model = Toy(body).eval()
    attached = attach(model, "se", reduction=4, placement="identity", input_size=SMALL)
    assert [len(attached.get_submodule(f"body.{name}")._forward_hooks) for name in "abc"] == [0, 0, 1]
    _as_inject_does(model, attached, placement="identity")


def test_a_block_that_runs_twice_is_gated_twice() -> None:
    torch.manual_seed(0)
    model = Toy(Lambda(lambda m, x: m.block(m.block(x)), block=_residual())).eval()
    attached = attach(model, "se", reduction=4, input_size=SMALL)
    assert len(attached.get_submodule("body.block.b")._forward_hooks) == 1
    _as_inject_does(model, attached)


def test_a_branch_that_ends_in_a_function_is_gated_where_its_module_returns() -> None:
    torch.manual_seed(0)
    branch = Lambda(lambda m, x: torch.tanh(m.a(x)), a=conv(16, 16))
    model = Toy(Lambda(lambda m, x: x + m.branch(x), branch=branch)).eval()
    attached = attach(model, "se", reduction=4, input_size=SMALL)
    assert len(attached.get_submodule("body.branch")._forward_hooks) == 1
    _as_inject_does(model, attached)


def test_of_several_modules_that_return_the_value_the_innermost_is_gated() -> None:
    torch.manual_seed(0)
    branch = nn.Sequential(nn.Sequential(conv(16, 16), Lambda(lambda m, x: torch.tanh(x))))
    model = Toy(Lambda(lambda m, x: x + m.branch(x), branch=branch)).eval()
    attached = attach(model, "se", reduction=4, input_size=SMALL)
    paths = [path for path, module in attached.named_modules() if module._forward_hooks]
    assert paths == ["body.branch.0.1"]
    _as_inject_does(model, attached)


def test_attach_takes_nothing_out() -> None:
    gate = Lambda(lambda m, x: x * torch.sigmoid(m.up(x.mean((2, 3), keepdim=True))), up=conv(16, 16, 1))
    model = Toy(Lambda(lambda m, x: x + m.se(m.b(relu(m.a(x)))), a=conv(16, 16), b=conv(16, 16), se=gate))
    for attention, sentence in (
        ("none", "attach only puts attention in: use inject to take it out"),
        ("eca", f"body.se: {UNREACHED}"),
    ):
        with pytest.raises(PlanError) as caught:
            attach(model, attention, existing="replace", input_size=SMALL)
        assert str(caught.value) == sentence


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


def test_a_module_that_also_runs_elsewhere_carries_no_hook() -> None:
    torch.manual_seed(0)
    model = SharedActivation().eval()
    attached = attach(model, "se", reduction=4, init="identity", input_size=16)
    assert [name for name, module in attached.named_modules() if module._forward_hooks] == [
        "blocks.0.body",
        "blocks.1.body",
    ]
    image = torch.randn(2, 3, 16, 16)
    assert torch.equal(attached(image), model(image))
    torch.manual_seed(1)
    patched = inject(model, "eca", input_size=16).eval()
    torch.manual_seed(1)
    gated = attach(model, "eca", input_size=16).eval()
    assert torch.equal(gated(image), patched(image))
    assert not torch.equal(gated(image), model(image))


def test_a_block_that_runs_all_it_holds() -> None:
    """A Sequential runs the new module too: right where it stands last, refused where it belongs elsewhere."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(conv(3, 16), nn.ReLU()), nn.Sequential(nn.MaxPool2d(2), conv(16, 32))).eval()
    image = torch.randn(2, 3, 16, 16)
    gated = []
    for verb in (inject, attach):
        torch.manual_seed(1)
        gated.append(verb(model, "se", kinds=("stage",), input_size=16).eval()(image))
    assert torch.equal(*gated)
    flat = nn.Sequential(conv(3, 16), nn.ReLU(), nn.MaxPool2d(2), conv(16, 32), nn.ReLU())
    for name in ("se", "eca"):
        with pytest.raises(PlanError, match="it runs every module that it holds; use inject"):
            attach(flat, name, kinds=("stage",), input_size=16)
