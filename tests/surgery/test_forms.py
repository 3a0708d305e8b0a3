"""The two forms of a patched model: every verb takes both, and one becomes the other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from attn_inject import (
    CheckpointError,
    InjectedModule,
    PlanError,
    attach,
    attention_parameters,
    attention_state_dict,
    detach,
    freeze_original,
    inject,
    load,
    optimize,
    optimize_training,
    remove,
    report,
    save,
    verify,
)
from attn_inject.surgery.forms import as_graph
from attn_inject.tracing.rewritten import restore_forward

from ..before_after import every_gate_runs
from ..toys import Lambda, Toy, conv, gates_run

SMALL = (3, 16, 16)
IMAGE = torch.randn(2, *SMALL, generator=torch.Generator().manual_seed(0))


def _toy() -> nn.Module:
    torch.manual_seed(0)
    blocks = [
        Lambda(lambda m, x: x + m.b(m.bn(torch.relu(m.a(x)))), a=conv(16, 16), bn=nn.BatchNorm2d(16), b=conv(16, 16))
    ]
    blocks.append(Lambda(lambda m, x: x + torch.tanh(m.b(torch.relu(m.a(x)))), a=conv(16, 16), b=conv(16, 16)))
    return Toy(nn.Sequential(*blocks)).eval()


def _attached(model: nn.Module) -> Any:
    torch.manual_seed(1)
    return attach(model, "se", reduction=4, input_size=SMALL)


class Picking(nn.Module):
    """Decides on data: it has no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _toy()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        return y[y.sum(1) > 0] if y.sum() > 0 else y


def test_the_graph_of_an_attached_model_runs_on_its_weights() -> None:
    attached = _attached(_toy())
    graph = as_graph(attached)
    assert isinstance(graph, InjectedModule)
    assert torch.equal(graph(IMAGE), attached(IMAGE))
    assert set(graph.state_dict()) == set(attached.state_dict())
    assert all(graph.state_dict()[name].data_ptr() == value.data_ptr() for name, value in attached.state_dict().items())
    assert as_graph(graph) is graph
    assert graph.injection.verification == attached.injection.verification


def test_what_was_recorded_has_no_graph() -> None:
    attached = attach(Picking().eval(), "se", reduction=4, input_size=SMALL)
    with pytest.raises(PlanError, match=r"^Picking was attached to without a graph, and has none"):
        as_graph(attached)
    assert len(list(attention_parameters(attached))) == 4


class Selecting(nn.Module):
    """How much it gives hangs on data: it has no graph, but torch.export follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _toy()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.body(x)
        return y, y[y > 0.5]


@pytest.mark.slow
def test_what_was_recorded_is_exported_as_it_is(tmp_path: Path) -> None:
    model = Selecting().eval()
    attached = attach(model, "se", reduction=4, input_size=SMALL).eval()
    with pytest.raises(PlanError, match="has none"):
        as_graph(attached)
    assert every_gate_runs(attached, IMAGE)
    save(attached, tmp_path / "net.pt2")
    exported = torch.export.load(tmp_path / "net.pt2").module()
    for batch in (IMAGE, IMAGE[:1]):
        for ours, theirs in zip(exported(batch), attached(batch), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(exported(IMAGE)[0], model(IMAGE)[0], atol=1e-3)


def test_each_verb_takes_what_was_attached() -> None:
    model = _toy()
    attached = _attached(model)
    assert len(list(attention_parameters(attached))) == 4
    assert list(attention_state_dict(attached)) == [
        f"body.{block}.se.{layer}.weight" for block in (0, 1) for layer in ("fc1", "fc2")
    ]
    verification = verify(model, attached)
    assert verification.passed
    assert verification.checks[-1].name == "inject"
    assert torch.equal(remove(attached)(IMAGE), model(IMAGE))
    assert type(remove(attached)) is type(model)
    assert torch.allclose(optimize(attached)(IMAGE), attached(IMAGE), atol=1e-5)
    assert torch.equal(optimize_training(attached).eval()(IMAGE), attached(IMAGE))
    made, other = (report(model, form, bench=False) for form in (attached, as_graph(attached)))
    assert len(made.sites) == 2
    # A graph lets go of a block's input sooner than the code around the block does.
    ours, theirs = ({q.name: q.after for q in each.totals if "peak" not in q.name} for each in (made, other))
    assert ours == theirs


@pytest.mark.parametrize("form", [inject, attach])
def test_an_optimizer_of_either_trains_both(form: Any) -> None:
    patched = form(
        Toy(Lambda(lambda m, x: x + m.a(torch.relu(x)), a=conv(16, 16))), "se", reduction=4, input_size=SMALL
    )
    faster = optimize_training(patched).train()
    assert [*map(id, faster.parameters())] == [*map(id, patched.parameters())]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_what_was_attached_can_be_optimized_in_another_type(dtype: torch.dtype) -> None:
    def run(m: Lambda, x: torch.Tensor) -> torch.Tensor:
        return x + torch.nn.functional.conv2d(torch.relu(m.a(x)), m.b.weight, m.b.bias, padding=1)

    attached = attach(Toy(Lambda(run, a=conv(16, 16), b=conv(16, 16))), "se", reduction=4, input_size=SMALL)
    attached.to(dtype).eval()
    for faster in (optimize(attached), optimize_training(attached).eval()):
        expected = attached(IMAGE.to(dtype))
        # A few roundings of the largest value.
        assert (faster(IMAGE.to(dtype)) - expected).abs().max() <= 4 * torch.finfo(dtype).eps * expected.abs().max()


@pytest.mark.parametrize(("form", "undo"), [(inject, remove), (attach, detach)])
def test_what_is_taken_out_of_a_frozen_model_leaves_norms_that_count(form: Any, undo: Any) -> None:
    body = Lambda(lambda m, x: x + m.a(torch.relu(m.n(x))), a=conv(16, 16), n=nn.BatchNorm2d(16))
    frozen = freeze_original(form(Toy(body), "se", reduction=4, input_size=SMALL)).train()
    bare = undo(frozen)
    assert (gates_run(bare, IMAGE), gates_run(frozen, IMAGE)) == (0, 1)
    assert bare.body.n.training
    assert not frozen.body.n.training
    before = frozen.body.n.running_mean.clone()
    frozen(IMAGE)
    assert torch.equal(frozen.body.n.running_mean, before)
    assert not bare.eval().body.n.training


@pytest.mark.parametrize(
    "change",
    [
        lambda net: setattr(net, "body", nn.Identity()),
        lambda net: setattr(net, "body", nn.Sequential(net.body, nn.Identity())),
        lambda net: delattr(net.body, "se"),
    ],
)
def test_what_was_attached_and_is_not_there_any_more_is_named(change: Any, tmp_path: Path) -> None:
    model = Toy(Lambda(lambda m, x: x + m.a(torch.relu(x)), a=conv(16, 16)))
    attached = attach(model, "se", reduction=4, input_size=SMALL)
    change(attached)
    verbs: list[Any] = [attention_state_dict, freeze_original, optimize, optimize_training, remove, detach]
    verbs += [lambda net: list(attention_parameters(net)), lambda net: verify(model, net)]
    verbs += [lambda net: report(model, net, bench=False)]
    for verb in verbs:
        with pytest.raises(PlanError, match="body.se, which was attached, is not there any more: detach"):
            verb(attached)
    with pytest.raises(CheckpointError, match="cannot be saved: body.se, which was attached"):
        save(attached, tmp_path / "net.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_file_brings_its_weights_to_a_model_that_has_none(tmp_path: Path) -> None:
    def made() -> Any:
        model = Toy(
            Lambda(lambda m, x: x + m.b(torch.relu(m.n(m.a(x)))), a=conv(16, 16), n=nn.BatchNorm2d(16), b=conv(16, 16))
        )
        model.body.b.weight = model.body.a.weight
        return model

    patched = inject(made(), "se", reduction=4, input_size=SMALL).eval()
    save(patched, tmp_path / "net.pt")
    save(patched, tmp_path / "part.pt", attention_only=True)
    with torch.device("meta"):
        empty = made()
    for form in ("graph", "module"):
        loaded: Any = load(tmp_path / "net.pt", empty, form=form)
        assert torch.equal(loaded(IMAGE), patched(IMAGE))
        assert gates_run(loaded, IMAGE) == 1
        assert loaded.body.a.weight is loaded.body.b.weight
        with pytest.raises(CheckpointError, match=r"meta device, and .*part.pt has no stem.weight"):
            load(tmp_path / "part.pt", empty, form=form)
    assert all(parameter.is_meta for parameter in empty.parameters())


def test_attention_that_is_run_no_more_is_noticed() -> None:
    model = _toy()
    attached = _attached(model)
    restore_forward(attached.body[0])
    checks = {check.name: check.passed for check in verify(model, attached).checks}
    assert not checks.pop("inject")
    assert all(checks.values())


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("saved", ["graph", "module"])
def test_a_file_loads_in_either_form(tmp_path: Path, suffix: str, saved: str) -> None:
    model = _toy()
    attached = _attached(model)
    path = tmp_path / f"net{suffix}"
    save(as_graph(attached) if saved == "graph" else attached, path)
    graph, module = load(path, model), load(path, model, form="module")
    assert isinstance(graph, InjectedModule)
    assert type(module) is type(model)
    for loaded in (graph, module):
        assert torch.equal(loaded(IMAGE), attached(IMAGE))
    module.load_state_dict(graph.state_dict())
    graph.load_state_dict(module.state_dict())
    with pytest.raises(PlanError, match=r"form must be one of graph, module; got 'modul'"):
        load(path, model, form="modul")  # type: ignore[call-overload]


def test_files_of_what_has_no_graph_say_which_form_loads(tmp_path: Path) -> None:
    model = Picking().eval()
    attached = attach(model, "se", reduction=4, input_size=SMALL)
    save(attached, tmp_path / "net.pt")
    loaded = load(tmp_path / "net.pt", model, form="module")
    assert torch.equal(loaded(IMAGE), attached(IMAGE))
    with pytest.raises(CheckpointError, match="load it with form='module'"):
        load(tmp_path / "net.pt", model)
    with pytest.raises(CheckpointError, match=r"^torch\.export cannot export this model: "):
        save(attached, tmp_path / "net.pt2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pt"]


@pytest.mark.slow
def test_two_scopes_in_either_form(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(_toy().body, nn.Conv2d(16, 16, 1), _toy().body).eval()
    stem = torch.randn(1, 16, 16, 16)
    attached: Any = model
    for scope in ("0", "2"):
        attached = attach(attached, "se", reduction=4, scope=scope, input_size=(16, 16, 16))
    assert len(list(attention_parameters(attached))) == 8
    save(attached, tmp_path / "net.pt")
    for form in ("graph", "module"):
        loaded: Any = load(tmp_path / "net.pt", model, form=form)
        assert torch.equal(loaded(stem), attached(stem))
        assert len(list(attention_parameters(loaded))) == 8
    assert torch.equal(detach(attached)(stem), model(stem))
    assert verify(model, attached).passed


@pytest.mark.parametrize("make", [inject, attach])
def test_a_plain_state_dict_loads_into_both_forms(make: Any) -> None:
    """As a checkpoint of the network without attention is: all that is missing is the attention."""
    torch.manual_seed(2)
    trained, patched = _toy(), make(_toy(), "se", reduction=4, input_size=SMALL, init="identity")
    for parameter in trained.parameters():
        nn.init.normal_(parameter)
    missing, unexpected = patched.load_state_dict(trained.state_dict(), strict=False)
    assert (set(missing), unexpected) == (set(attention_state_dict(patched)), [])
    assert torch.equal(patched.eval()(IMAGE), trained(IMAGE))


@pytest.mark.parametrize("make", [inject, attach])
def test_frozen_norms_stay_as_they_are(make: Any) -> None:
    frozen = freeze_original(make(_toy(), "se", reduction=4, input_size=SMALL)).train()
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in frozen.parameters() if p.requires_grad], 0.1)
    for twin in (frozen, copy.deepcopy(frozen).train()):
        twin(IMAGE).square().mean().backward()
        assert not twin.get_submodule("body.0.bn").training
    optimizer.step()
    moved = {name for name, value in frozen.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(attention_state_dict(frozen))
    freeze_original(frozen, statistics=False)
    assert frozen.get_submodule("body.0.bn").training
    frozen(IMAGE)
    assert not torch.equal(frozen.state_dict()["body.0.bn.running_mean"], before["body.0.bn.running_mean"])


def test_attached_model_that_has_changed_since_has_no_graph_of_what_it_was() -> None:
    # A graph finds its sites anew: it would gate before the dropout, the model's own code does behind it.
    attached = _attached(_toy())
    attached.body[0].bn = nn.Sequential(attached.body[0].bn, nn.ReLU())
    as_graph(attached)  # within the branch: the same place
    attached.body[1].b = nn.Sequential(attached.body[1].b, nn.Dropout2d(0.5))
    attached.body[0].b = nn.Sequential(attached.body[0].b, nn.Dropout2d(0.5))
    for verb in (as_graph, optimize, optimize_training):
        with pytest.raises(PlanError, match=r"^Toy has changed since .* attach to what detach\(\) gives$"):
            verb(attached)
    as_graph(attach(detach(attached), "se", reduction=4, input_size=SMALL))


def test_attached_model_that_takes_other_images_now_says_so() -> None:
    attached = _attached(_toy())
    attached.stem = nn.Conv2d(1, attached.stem.out_channels, 3, padding=1)
    for verb in (as_graph, optimize, optimize_training):
        with pytest.raises(PlanError, match=r"^Toy no longer runs on what it was attached to with \(node stem .* now$"):
            verb(attached)
    one = torch.randn(2, 1, 16, 16)
    again = attach(detach(attached), "se", reduction=4, example_inputs=one)
    assert torch.allclose(optimize(again.eval())(one), again(one), atol=1e-5)
    assert gates_run(again, one) == gates_run(as_graph(again), one) == 2


@pytest.mark.parametrize("form", [_attached, lambda model: inject(model, "se", reduction=4, input_size=SMALL)])
@pytest.mark.parametrize("wrapper", [torch.compile, nn.DataParallel, AveragedModel])
@pytest.mark.slow
def test_save_and_verify_look_through_wrappers(wrapper: Any, form: Any, tmp_path: Path) -> None:
    model = _toy()
    patched = form(model)
    wrapped = wrapper(patched)
    save(wrapped, tmp_path / "m.pt")
    loaded = load(tmp_path / "m.pt", model)
    assert torch.equal(loaded(IMAGE), patched(IMAGE))
    assert gates_run(loaded, IMAGE) == 2
    assert verify(model, wrapped) == verify(model, patched)


class _Sharded(torch.Tensor):
    """As a DTensor, of which each process has a part."""

    def full_tensor(self) -> torch.Tensor:
        return self


def test_sharded_models_are_not_saved_part_by_part(tmp_path: Path) -> None:
    patched = inject(_toy(), "se", reduction=4, input_size=SMALL)
    patched.head.weight = nn.Parameter(patched.head.weight.detach().as_subclass(_Sharded))
    with pytest.raises(CheckpointError, match=r"^the model is sharded .*get_model_state_dict"):
        save(patched, tmp_path / "m.pt")
    assert not list(tmp_path.iterdir())
