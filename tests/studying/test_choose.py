"""Attention is chosen where it was planted, a placebo nowhere; budgets hold; what is finished is gone on from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_inject import AttnInjectError, CheckpointError, Plan, PlanError, apply_plan, choose, inject
from attn_inject.planning.text import plan_from_json, plan_to_json
from attn_inject.studying.answers import cross_entropy
from attn_inject.studying.choice import Choice
from attn_inject.studying.choose import study_choice
from attn_inject.studying.trained import Training
from tests.studying.worthy import Net, Noise, Placebo, batches

SE = "se:reduction=1"


def quick(attention: Any = SE, data: Any = None, model: nn.Module | None = None, **settings: Any) -> Choice:
    """A study of next to no training."""
    return study_choice(
        model or Net().eval(), attention, data or batches(128, 8), **{"steps": 1, "seeds": 1, "lr": 0.01, **settings}
    )


@pytest.fixture(scope="module")
def both() -> Choice:
    """SE and the placebo, which compete."""
    return study_choice(Net().eval(), [SE, Placebo], batches(), steps=80, seeds=2, lr=0.05)


@pytest.mark.slow
def test_the_planted_site_is_chosen_and_nothing_else(both: Choice) -> None:
    assert [(i.site.block, i.attention) for i in both.plan.insertions] == [("blocks.1", "se")]
    verdicts = {(site.block, site.attention): site.verdict for site in both.sites}
    assert verdicts.pop(("blocks.1", SE)) == "pays"
    assert set(verdicts.values()) == {"not seen"}
    assert both.images == (320, 160, 160)
    chosen, none = both.rows[:2]
    assert (chosen.name, chosen.blocks, chosen.verdict) == ("chosen", ("blocks.1",), "better")
    assert chosen.loss < 0.6 * none.loss
    assert chosen.accuracy is not None
    assert none.accuracy is not None
    assert chosen.accuracy > none.accuracy + 0.1
    assert {row.name for row in both.rows} == {"chosen", "none", "all", "last stage", "every second", "random"}
    every_second = next(row for row in both.rows if row.name == "every second")
    assert (every_second.blocks, every_second.verdict) == (("blocks.0", "blocks.2"), "not seen")
    assert both.plan.notes[0].startswith("chosen: blocks.1 (se:reduction=1); trained on 320 images from 2 seeds")
    assert both.plan.notes[1].endswith("better than no attention")


@pytest.mark.slow
def test_the_plan_does_what_it_says_in_the_model(both: Choice) -> None:
    net = Net().eval()
    patched = apply_plan(net, both.plan)
    x = batches(4, 4)[0][0]
    assert torch.equal(patched.eval()(x), net(x))  # from an identity start
    assert [name for name in patched.state_dict() if ".se." in name] == [
        "blocks.1.se.fc1.weight",
        "blocks.1.se.fc2.weight",
    ]
    assert plan_from_json(plan_to_json(both.plan)) == both.plan
    ran: list[str] = []
    for name, module in patched.named_modules():
        if name.endswith(".se"):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    patched(x)
    assert ran == ["blocks.1.se"]


def test_a_placebo_is_never_chosen_and_looks_like_none(both: Choice) -> None:
    placebo = [site for site in both.sites if site.attention == "Placebo"]
    assert [(site.worth.mean, site.worth.low, site.worth.high) for site in placebo] == [(0.0, 0.0, 0.0)] * 3
    alone = quick(Placebo, steps=20)
    assert alone.plan.insertions == ()
    assert "no site, since at none the interval" in alone.plan.notes[0]
    assert {row.loss for row in alone.rows} == {alone.rows[0].loss}
    assert {row.verdict for row in alone.rows} == {"", "not seen"}
    net = Net().eval()
    x = batches(4, 4)[0][0]
    assert torch.equal(apply_plan(net, alone.plan).eval()(x), net(x))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_placebo_that_does_something_is_never_chosen_either(seeds: int) -> None:
    worth = []
    for drawn in range(3):
        data, net = batches(seed=drawn), Net().eval()
        both = study_choice(net, [SE, Noise], data, steps=80, seeds=seeds, lr=0.05)
        assert [(i.site.block, i.attention) for i in both.plan.insertions] == [("blocks.1", "se")]
        alone = study_choice(net, Noise, data, steps=80, seeds=seeds, lr=0.05)
        assert alone.plan.insertions == ()
        placebo = [site for each in (both, alone) for site in each.sites if site.attention == "Noise"]
        assert "pays" not in {site.verdict for site in placebo}
        assert "better" not in {row.verdict for row in alone.rows}
        worth += [site.worth.mean for site in alone.sites]
    # By the mean alone some would have been chosen.
    assert max(worth) > 0


def test_the_callers_model_and_generators_are_left_as_they_were() -> None:
    net = Net().train()
    net.blocks[1].eval()
    net.head.weight.requires_grad = False
    before = {name: value.clone() for name, value in net.state_dict().items()}
    flags = [(name, parameter.requires_grad) for name, parameter in net.named_parameters()]
    modes = [module.training for module in net.modules()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with torch.no_grad():
        plan = choose(net, SE, batches(128, 8), budget="sites=1", steps=2, seeds=1)
        assert not torch.is_grad_enabled()
    assert isinstance(plan, Plan)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [(name, parameter.requires_grad) for name, parameter in net.named_parameters()] == flags
    assert [module.training for module in net.modules()] == modes
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not [hook for module in net.modules() for hook in (module._forward_hooks or module._forward_pre_hooks)]


def counted(monkeypatch: pytest.MonkeyPatch, fails_at: int | None = None) -> list[int]:
    """The seeds of all trainings from now on; the one of some number is interrupted."""
    trained: list[int] = []
    train = Training._train

    def noted(self: Training, model: nn.Module, seed: int, tell: Any) -> None:
        if len(trained) == fails_at:
            raise KeyboardInterrupt
        trained.append(seed)
        train(self, model, seed, tell)

    monkeypatch.setattr(Training, "_train", noted)
    return trained


def test_what_was_interrupted_goes_on_and_comes_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"steps": 3, "seeds": 2}
    whole = quick(**settings)
    state = tmp_path / "state.json"
    with monkeypatch.context() as patch:
        trained = counted(patch, fails_at=3)
        with pytest.raises(KeyboardInterrupt):
            quick(**settings, resume=state)
    first = len(trained)
    finished = json.loads(state.read_text())["finished"]
    assert len(finished) >= first == 3
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    trained = counted(monkeypatch)
    assert quick(**settings, resume=state) == whole
    rest = len(trained)
    assert rest > 0
    assert quick(**settings, resume=str(state)) == whole
    assert len(trained) == rest
    other = quick(**{**settings, "seeds": 3}, budget="sites=2", resume=state)
    assert (other.seeds, other.budget) == (3, "sites=2")
    assert trained[rest:].count(2) == len(trained) - rest - trained[rest:].count(0) - trained[rest:].count(1) > 0


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    quick(resume=state)
    before = state.read_bytes()
    changed = Net().eval()
    nn.init.constant_(changed.head.bias, 0.5)
    for settings in (
        {"steps": 2},
        {"lr": 0.02},
        {"data": batches(128, 8, seed=1)},
        {"model": changed},
        {"attention": "eca"},
    ):
        with pytest.raises(CheckpointError, match="of another model, other data"):
            quick(**settings, resume=state)
    with pytest.raises(CheckpointError, match="of another model"):
        quick(loss=F.cross_entropy, resume=state)
    smoothed = tmp_path / "smoothed.json"
    quick(loss=nn.CrossEntropyLoss(), resume=smoothed)
    quick(loss=nn.CrossEntropyLoss(), resume=smoothed)
    with pytest.raises(CheckpointError, match="of another model"):
        quick(loss=nn.CrossEntropyLoss(label_smoothing=0.5), resume=smoothed)
    assert state.read_bytes() == before
    good = json.loads(before)
    for content, said in (
        (b"nothing", "cannot be read as JSON"),
        (b"[]", "no file of finished trainings"),
        (json.dumps({**good, "version": 2}), "another version"),
        (json.dumps({**good, "finished": {"seed 0: ": {"losses": ["x"], "right": [], "worth": []}}}), "is not in it"),
        (json.dumps({**good, "finished": {"seed 0: ": {"losses": [1.0]}}}), "is not in it"),
        (json.dumps({**good, "finished": {"race": "soon"}}), "is not in it"),
    ):
        state.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(CheckpointError, match=said):
            quick(resume=state)
    with pytest.raises(CheckpointError, match="does not exist"):
        quick(resume=tmp_path / "nowhere" / "state.json")


def test_few_images_and_one_seed_are_said() -> None:
    few = quick(data=batches(16, 4), seeds=1)
    assert any(note.startswith("one seed") for note in few.notes)
    assert any("4 images are few" in note for note in few.notes)
    assert few.plan.notes == ("chosen: no site, since 4 images are too few to show that any pays",)
    assert {site.verdict for site in few.sites} == {""}
    assert not any(note.startswith("one seed") for note in quick(seeds=2).notes)


def test_losses_of_the_callers_and_inputs_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.net(x) * scale.mean()}

    data = [
        {"input": {"x": x, "scale": torch.ones(len(x))}, "target": F.one_hot(y, 2).float()} for x, y in batches(128, 8)
    ]

    def mean(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        return (outputs["logits"].softmax(1) - targets).square().mean()

    def each(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        return (outputs["logits"].softmax(1) - targets).square().mean(1)

    one, other = (quick(data=data, model=Named().eval(), loss=loss, steps=3) for loss in (mean, each))
    assert [row.loss for row in one.rows] == pytest.approx([row.loss for row in other.rows], rel=1e-5)
    assert one.rows[0].accuracy is None
    assert one.sites[1].worth.mean == pytest.approx(other.sites[1].worth.mean, rel=1e-3)


def test_one_output_has_no_cross_entropy() -> None:
    targets = torch.rand(4, 1).round()
    with pytest.raises(AttnInjectError, match="the model has one output, of which the cross entropy is always 0"):
        cross_entropy(torch.randn(4, 1), targets)
    shares = torch.rand(4, 3).softmax(1)
    expected = -(shares * torch.eye(3)[0].log_softmax(0)).sum(1).mean()
    assert torch.isclose(cross_entropy(torch.eye(3)[0].expand(4, 3), shares), expected)


def test_what_does_not_do_is_one_sentence() -> None:
    x, y = batches(8, 8)[0]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"data": [x] * 4}, "has no targets"),
        ({"data": [(x, y)] * 3}, "at least four batches"),
        ({"data": [(x, y + 2)] * 4}, "the loss does not take"),
        ({"data": [(x, torch.ones(len(y), 2))] * 4}, "do not add up to 1 for each image"),
        ({"loss": lambda _outputs, _targets: 0.0}, "scalar tensor, or one value for each image, not a float"),
        ({"loss": lambda outputs, _targets: outputs}, r"not values of shape \(\d+, 2\): take the mean over"),
        ({"loss": lambda outputs, _targets: outputs.sum() * float("nan")}, "lower lr"),
        ({"steps": 0}, "steps must be"),
        ({"seeds": 1.5}, "seeds must be"),
        ({"lr": 0.0}, "lr must be"),
        ({"attention": []}, "one attention, or several"),
        ({"attention": [SE, SE]}, "each once"),
        ({"attention": "none"}, "held against"),
        ({"attention": [Placebo, nn.Identity]}, "register_attention"),
        ({"init": "paper"}, "leave init out"),
        ({"existing": "replace"}, "would take something out"),
        ({"placement": "nowhere"}, "placement must be one of"),
        ({"model": Net().to("meta")}, "meta device"),
        ({"model": inject(Net(), "eca", input_size=(7, 4, 4))}, "remove"),
    ]
    for settings, said in cases:
        with pytest.raises(AttnInjectError, match=said) as raised:
            quick(**settings)
        assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(PlanError, match="matches no block"):
        quick(include="nowhere.*")


def test_the_data_is_read_once_and_no_further_than_asked() -> None:
    def endless() -> Any:
        while True:
            yield from batches(32, 8)

    made = quick(data=endless(), batches=6)
    assert made.images == (24, 16, 8)
    assert replace(made, data="") == replace(quick(data=(batches(32, 8) * 2)[:6]), data="")


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = Net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def test_in_one_part_of_a_model() -> None:
    choice, whole = (
        quick(model=model, **given) for model, given in ((Around().eval(), {"scope": "body"}), (Net().eval(), {}))
    )
    assert choice.plan.scope == "body"
    assert [site.price for site in choice.sites] == [site.price for site in whole.sites]
