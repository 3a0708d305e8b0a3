"""What was planted is found, and nothing else is; and the model is afterwards as it was."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader

from attn_inject import AttnInjectError, PlanError, attach, gates, inject, load, save
from attn_inject.attention.catalogue import catalogue
from attn_inject.reporting.study_schema import GATES
from attn_inject.reporting.views.gates_text import to_text
from attn_inject.studying import feeds
from attn_inject.studying.feeds import Feed
from attn_inject.zoo.cifar import models
from tests.studying import digits
from tests.studying.planted import CONSTANT, MOVING, SELECTIVE, SHUT, Gate, Passing, batches, images, planted, unmoved
from tests.studying.worthy import Noise


def weights_of(patched: nn.Module, x: torch.Tensor) -> torch.Tensor:
    gate = next(module for module in patched.modules() if isinstance(module, Gate))
    return torch.sigmoid(gate.fc(x.mean((2, 3)))).detach().double()


@pytest.mark.parametrize("form", ["inject", "attach"])
@pytest.mark.parametrize("in_place", [False, True])
def test_the_figures_are_those_of_all_images_at_once(form: str, in_place: bool) -> None:
    patched, (x, _) = planted(form, in_place=in_place), images()
    (row,) = gates(patched, batches(), ablation=False).sites
    weights = weights_of(patched, x)
    assert row.nature == "gate"
    torch.testing.assert_close(torch.tensor(row.figures.mean), weights.mean(0).float(), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(
        torch.tensor(row.figures.spread), weights.std(0, correction=0).float(), atol=2e-6, rtol=1e-5
    )
    moved = ((weights - weights.mean(0)).square().mean() / weights.square().mean()).sqrt()
    assert row.movement == pytest.approx(float(moved), rel=1e-5)
    assert row.percentiles[0] == pytest.approx(float(weights.mean(0).min()), abs=1e-6)
    assert row.percentiles[10] == pytest.approx(float(weights.mean(0).max()), abs=1e-6)


def test_what_was_planted_is_found_and_nothing_else() -> None:
    (row,) = gates(planted(), batches()).sites
    figures = row.figures
    assert figures.between[SELECTIVE] > 0.99
    assert all(figures.between[channel] < 0.05 for channel in (CONSTANT, SHUT, MOVING))
    assert row.selective[0].channel == SELECTIVE
    assert figures.spread[CONSTANT] < 1e-6 < 0.01 < figures.spread[MOVING]
    assert (row.closed, row.opened) == (0.25, 0.0)
    assert figures.closed[SHUT] == 1
    assert figures.opened[SELECTIVE] == pytest.approx(figures.closed[SELECTIVE], abs=0.2)
    assert not row.is_constant


def test_a_gate_that_matters_pays_and_one_that_stays_is_constant() -> None:
    found = gates(planted(), batches())
    (row,) = found.sites
    assert (found.measure, found.score) == ("accuracy", 1.0)
    assert row.frozen.mean > 0.3
    assert row.verdict(found.measure) == "pays"
    still = planted()
    still.state_dict()["gate.fc.weight"].zero_()
    (row,) = gates(still, batches()).sites
    assert row.verdict("accuracy") == "constant"
    assert row.frozen.mean == 0
    assert row.frozen.low < 0 < row.frozen.high


def test_saturated_gates_are_stuck_at_their_upper_end_whatever_that_is() -> None:
    patched = inject(Passing(), "se", input_size=(4, 3, 3), reduction=2, bias=True, init="identity")
    with torch.no_grad():
        patched.se.fc2.bias.fill_(20)
    (row,) = gates(patched, batches()).sites
    assert (row.top, row.weight, row.opened, row.closed) == (2.0, 2.0, 1.0, 0.0)
    assert row.is_constant


def test_effects_without_targets_are_changes_of_the_outputs() -> None:
    patched, (x, _) = planted(), images()
    found = gates(patched, [x[:50], x[50:]])
    (row,) = found.sites
    weights = weights_of(patched, x)
    out = patched(x).detach().double()
    changed = patched.head(((1 + weights.mean(0)) * x.mean((2, 3)).double()).float()).detach().double()
    change = (changed - out).norm(dim=1) / out.norm(dim=1)
    assert (found.measure, found.score, found.classes) == ("outputs", None, ())
    assert row.frozen.mean == pytest.approx(float(change.mean()), rel=1e-4)
    half = 1.96 * float(change.std()) / 200**0.5
    assert row.frozen.high - row.frozen.mean == pytest.approx(half, rel=0.01)
    assert row.verdict(found.measure) == ""


def test_a_loss_of_the_callers() -> None:
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    found = gates(planted(), batches(), loss=loss)
    assert found.measure == "loss"
    assert found.sites[0].verdict("loss") == "pays"
    with pytest.raises(AttnInjectError, match="one value for each image"):
        gates(planted(), batches(), loss=nn.functional.cross_entropy)


def test_targets_of_the_outputs_shape_and_others() -> None:
    x, labels = images()
    found = gates(planted(), [(x, torch.zeros(200, 2))])
    assert (found.measure, found.classes) == ("loss", ())
    assert "the loss is the mean squared difference of outputs and targets; or pass a loss" in found.notes
    found = gates(planted(), [{"image": x, "mask": torch.zeros(200, 3, 3)}])
    assert found.measure == "outputs"
    assert "pass a loss" in found.notes[-1]
    for off, told in ((6, 7), (-1, -1)):
        with pytest.raises(AttnInjectError, match=f"a target is {told}, and the model has 2 outputs"):
            gates(planted(), [(x, labels + off)])
    with pytest.raises(AttnInjectError, match="the targets of a batch are no numbers"):
        gates(planted(), [(x, ["cat"] * 200)])


class Stored:
    """An iterable that hands out one iterator each time."""

    def __init__(self, held: Iterator[Any]) -> None:
        self.held = held

    def __iter__(self) -> Iterator[Any]:
        return self.held


@pytest.mark.parametrize(
    ("data", "single"),
    [
        ([1, 2], False),
        (iter([1, 2]), True),
        ((part for part in (1, 2)), True),
        (Stored(iter([1, 2])), True),
        (Stored(part for part in (1, 2)), True),
        (Stored(zip((1, 2), (3, 4), strict=True)), True),
        (DataLoader([1, 2]), False),
    ],
)
def test_what_can_be_gone_through_only_once_is_known(data: Any, single: bool) -> None:
    assert feeds.Feed(data).is_single is single
    assert len(list(data)) == 2


def test_data_that_can_be_read_once_only_is_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, once = gates(planted(), batches()), gates(planted(), iter(batches()))
    assert once.sites == whole.sites
    assert gates(planted(), Stored(iter(batches()))).sites == whole.sites
    monkeypatch.setattr(feeds, "KEPT_BYTES", 0)
    monkeypatch.setattr("attn_inject.studying.study.KEPT_BYTES", 3 * 32 * (4 * 9 * 4 + 8))
    part = gates(planted(), iter(batches()))
    assert (part.images, part.ablated_images) == (200, 96)
    assert any("first 96 images" in note for note in part.notes)


def test_batches_without_targets_are_said_to_have_no_effects() -> None:
    half = [batch if index % 2 == 0 else batch[0] for index, batch in enumerate(batches())]
    found = gates(planted(), half)
    assert (found.images, found.ablated_images) == (200, 104)
    assert "effects are those of 104 of 200 images: the others have no targets, or came only once" in found.notes
    assert not [note for note in found.notes if "read only once" in note]


def test_few_images_get_no_interval_and_the_words_say_so() -> None:
    found = gates(planted(), batches(20))
    assert found.sites[0].frozen.low is None
    assert found.sites[0].verdict(found.measure) == ""
    assert "20 images are few" in found.notes[0]


def test_the_model_is_afterwards_as_it_was() -> None:
    patched = planted().train()
    patched.head.eval()
    modes = [module.training for module in patched.modules()]
    tensors = {name: value.clone() for name, value in patched.state_dict().items()}

    def drawing() -> Iterator[Any]:
        for batch in batches():
            torch.rand(1), random.random()
            yield batch

    torch.manual_seed(3), random.seed(3)
    states = torch.get_rng_state(), random.getstate()
    gates(patched, drawing())
    with pytest.raises(AttnInjectError, match="does not run on the data"):
        gates(patched, [torch.zeros(2, 7, 3, 3)])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert [module.training for module in patched.modules()] == modes
    assert all(torch.equal(value, tensors[name]) for name, value in patched.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in patched.modules())
    assert not any("forward" in vars(module) for module in patched.modules())


def test_attentions_that_are_no_gates() -> None:
    x = torch.randn(40, 3, 16, 16)
    cbam = gates(inject(models()["resnet20"](), "timm:cbam", stages=0, include="layer1.0"), [x])
    assert [row.nature for row in cbam.sites] == ["map"]
    assert 0 < cbam.sites[0].weight < 1
    assert cbam.sites[0].frozen is not None
    assert "weighs places too" in cbam.notes[-1]
    own = gates(inject(bottleneck(), Wider, placement="replace", include="layer1.0"), [x[:4]])
    assert [(row.nature, row.weight, row.frozen) for row in own.sites] == [("other", None, None)]
    assert "in the place of a convolution" in own.notes[-1]


GATES_BY_NAME = [entry.name for entry in catalogue() if entry.gate_add]
# Gates that are none of our classes, and are found to be gates by what they do.
FOREIGN_GATES = ["timm:se", "timm:eca", "timm:gc"]
# A norm over one channel gives zero and one over two plus and minus one, whatever the image.
WIDER: dict[str, Any] = {"timm:gc": {"rd_ratio": 0.5}, "lct": {"groups": 4}}


@pytest.mark.parametrize("name", [*GATES_BY_NAME, *FOREIGN_GATES])
@pytest.mark.slow
def test_every_pure_gate(name: str) -> None:
    torch.manual_seed(0)
    options = WIDER.get(name, {})
    patched = inject(models()["resnet20"](), name, include="layer1.0", input_size=(3, 16, 16), **options).eval()
    attention = patched.get_submodule(patched.injection.plan.insertions[0].module)
    with torch.no_grad():
        for parameter in attention.parameters():
            # Some start where no weight moves.
            parameter.add_(torch.randn(parameter.shape))
    x = torch.randn(40, 3, 16, 16)
    made: list[torch.Tensor] = []

    def noted(_module: nn.Module, args: Any, out: torch.Tensor) -> None:
        # By one place only, the largest of each map: for a gate every place says the same.
        given, largest = args[0].flatten(2), args[0].flatten(2).abs().argmax(2, keepdim=True)
        made.append((out.flatten(2).gather(2, largest) / given.gather(2, largest))[..., 0].double())

    with torch.no_grad():
        handle = attention.register_forward_hook(noted)
        out = patched(x)
        handle.remove()
        (weights,) = made
        mean = weights.mean(0)
        handle = attention.register_forward_hook(lambda _m, args, _out: args[0] * mean[:, None, None].float())
        changed = patched(x)
        handle.remove()
    change = ((changed - out).norm(dim=1) / out.norm(dim=1)).mean()
    assert change > 1e-5, "nothing but rounding"
    (row,) = gates(patched, x.split(20)).sites
    assert row.nature == "gate"
    torch.testing.assert_close(torch.tensor(row.figures.mean).double(), mean, atol=2e-6, rtol=1e-4)
    assert row.frozen is not None
    assert row.frozen.mean == pytest.approx(float(change), rel=1e-3)
    assert row.frozen.mean > 0
    assert row.frozen.low is not None
    assert row.without is not None


def bottleneck() -> nn.Module:
    return torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], width_per_group=8).eval()


class Wider(nn.Module):
    """Stands in the place of a convolution, and shows no weights."""

    def __init__(self, channels: int, out_channels: int | None = None, stride: Any = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels or channels, 3, stride, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x))


@pytest.mark.parametrize(("name", "branches"), [("psa", 4), ("sk", 2)])
@pytest.mark.parametrize("placement", ["replace", "standard"])
def test_attentions_that_weigh_branches(name: str, branches: int, placement: str) -> None:
    torch.manual_seed(0)
    patched = inject(bottleneck(), name, placement=placement, include="layer1.0").eval()
    attention = patched.get_submodule(f"layer1.0.{name}")
    x, shares = torch.randn(40, 3, 16, 16), attention.shares
    made: list[torch.Tensor] = []
    handle = shares.register_forward_hook(lambda _module, _args, out: made.append(out.double()))
    with torch.no_grad():
        out = patched(x)
        (weights,) = made
        # What the module gives follows from the weights that are shown.
        assert weights.shape[:2] == (40, branches)
        torch.testing.assert_close(weights.sum(1), torch.ones_like(weights[:, 0]), atol=1e-6, rtol=0)
        # Freezing is putting the means in their place, and nothing else.
        handle.remove()
        handle = shares.register_forward_hook(lambda _module, _args, out: weights.mean(0, keepdim=True).to(out))
        changed = patched(x)
        handle.remove()
    change = ((changed - out).norm(dim=1) / out.norm(dim=1)).mean()
    found = gates(patched, x.split(20))
    (row,) = found.sites
    assert row.nature == "branches"
    mean = weights.mean(0).flatten()
    torch.testing.assert_close(torch.tensor(row.figures.mean).double(), mean, atol=2e-6, rtol=1e-5)
    assert row.weight == pytest.approx(1 / branches, abs=1e-6)
    assert row.frozen is not None
    assert row.frozen.mean == pytest.approx(float(change), rel=1e-3)
    assert row.frozen.mean > 0
    assert row.frozen.low is not None
    assert "weighs branches" in found.notes[-1]
    if placement == "replace":
        assert row.without is None
        assert "cannot be taken out" in found.notes[-1]
    else:
        assert row.without is not None
        assert row.without.mean > row.frozen.mean
        assert "taken out" not in found.notes[-1]
    assert name in str(found)
    jsonschema.validate(json.loads(found.to_json()), GATES)
    assert not any("forward" in vars(module) for module in patched.modules())


@pytest.mark.slow
def test_what_load_gives_scopes_and_wrappers(tmp_path: Any) -> None:
    x = torch.randn(8, 3, 32, 32)
    model = models()["resnet20"]()
    twice = inject(
        inject(model, "se", scope="layer1", input_size=(16, 32, 32)), "eca", scope="layer3", input_size=(32, 16, 16)
    )
    found = gates(twice, [x], ablation=False)
    assert {row.attention for row in found.sites} == {"se", "eca"}
    assert found.sites[0].module.startswith("layer1.")
    save(inject(model, "eca"), tmp_path / "net.pt")
    for form in ("graph", "module"):
        loaded = load(tmp_path / "net.pt", model, form=form)
        assert len(gates(nn.DataParallel(loaded), [x], ablation=False).sites) == 9


def test_a_shared_block_counts_each_call() -> None:
    from tests.toys import shared_block

    (row,) = gates(attach(shared_block(), "se"), [torch.randn(30, 3, 16, 16)]).sites
    assert row.calls == 2
    assert row.frozen is not None


def test_what_is_no_data_or_no_patched_model() -> None:
    with pytest.raises(AttnInjectError, match="gave no batch"):
        gates(planted(), [])
    with pytest.raises(AttnInjectError, match="a batch of the data must be"):
        gates(planted(), ["text"])
    with pytest.raises(PlanError, match="no attention that inject"):
        gates(Passing(), batches())


def test_classes_of_folders_that_are_not_the_models() -> None:
    found = gates(planted(), Feed(batches(), classes=3))
    assert found.measure == "outputs"
    assert found.sites[0].between > 0.5
    assert "nobody knows which is which" in found.notes[0]


@pytest.mark.slow
def test_a_placebo_does_not_look_helpful_on_digits() -> None:
    torch.manual_seed(0)
    patched = digits.train(inject(digits.Net(width=8, blocks=1), Noise, input_size=digits.SIZE), epochs=4)
    found = gates(patched, digits.held())
    assert found.measure == "accuracy"
    assert found.score > 0.8
    assert all(row.movement > 0.1 for row in found.sites)
    assert {row.verdict(found.measure) for row in found.sites} <= {"not seen", "harms"}
    # It may be missed when it is taken out, which no view calls help.
    assert {row["verdict"] for row in found.to_dict()["sites"]} <= {"not seen", "harms"}
    views = [str(found), to_text(found, full=True), to_text(found, full=True, width=120), found.to_html()]
    for view in views:
        said = " ".join(view.split())
        assert "moving pays" not in said
        assert "A loss without it does not prove that the attention helps" in said


def test_answers_that_are_no_numbers_and_batches_without_all_targets() -> None:
    patched, data = unmoved(), batches(40)
    (x, labels), *_ = data
    with pytest.raises(AttnInjectError, match="has no class for each: give each image one target"):
        gates(patched, [(x, labels), (x, labels[:-1])])
    patched.head.weight.data[0, 0] = torch.nan
    for asked in (data, [x for x, _ in data]):
        with pytest.raises(AttnInjectError, match="are not all finite numbers"):
            gates(patched, asked)
