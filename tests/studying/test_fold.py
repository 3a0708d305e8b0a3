"""Constant gates fold within float error, others within the tolerance, and the result is a patched model like any."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from attn_inject import (
    AttnInjectError,
    CheckpointError,
    InjectedModule,
    PlanError,
    attach,
    fold,
    gates,
    inject,
    load,
    remove,
    save,
)
from attn_inject.saving.inspection import inspect
from attn_inject.studying.costing import Halves
from attn_inject.studying.feeds import Feed
from attn_inject.surgery.constants import layer_before
from attn_inject.surgery.forms import as_graph
from attn_inject.zoo.cifar import models
from tests import toys
from tests.before_after import every_gate_runs
from tests.studying import digits
from tests.studying.planted import Passing, batches, images, planted, unmoved


def randomised(model: nn.Module) -> nn.Module:
    """Norms that do something: with fresh ones a factor too many goes unseen."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model


@pytest.fixture
def still() -> InjectedModule:
    """SE with biases, whose weights differ from channel to channel and never move; but for the last site."""
    torch.manual_seed(0)
    patched = inject(
        randomised(models()["resnet20"]()), "se", reduction=2, bias=True, include=["layer1.*", "layer2.0"]
    ).eval()
    for path in ("layer1.0.se.fc2", "layer1.1.se.fc2", "layer1.2.se.fc2"):
        nn.init.zeros_(patched.get_submodule(path).weight)
        nn.init.normal_(patched.get_submodule(path).bias)
    nn.init.normal_(patched.get_submodule("layer2.0.se.fc2").weight, std=0.5)
    return patched


def data(count: int = 4, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(8, 3, 16, 16, generator=generator) * (1 + index) for index in range(count)]


def test_constant_gates_fold_within_float_error_and_moving_ones_stay(still: InjectedModule) -> None:
    before = {name: value.clone() for name, value in still.state_dict().items()}
    folded = fold(still, data(), 1e-4, bench_seconds=0)
    assert set(folded.folding.folded) == {"layer1.0", "layer1.1", "layer1.2"}
    assert [block for block, _ in folded.folding.kept] == ["layer2.0"]
    x = data(1, seed=7)[0]
    torch.testing.assert_close(folded(x), still(x), rtol=1e-4, atol=1e-4)
    assert [insertion.module for insertion in folded.injection.plan.insertions] == ["layer2.0.se"]
    assert not any("layer1" in name and ".se." in name for name in folded.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in still.state_dict().items())
    assert still.training == folded.training


@pytest.mark.slow
def test_it_trains_saves_loads_exports_and_says_what_remove_leaves(still: InjectedModule, tmp_path: Path) -> None:
    folded, x = fold(still, data(), 1e-4, bench_seconds=0), data(1)[0]
    # The gates that stayed work on, here and in what a file gives.
    (given,) = every_gate_runs(folded, x)
    save(folded, tmp_path / "net.pt")
    for form in ("graph", "module"):
        again = load(tmp_path / "net.pt", models()["resnet20"](), form=form)
        (same,) = every_gate_runs(again, x)
        assert torch.equal(same, given)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            as_graph(again)  # the way through a removal that nobody asked for
        with pytest.warns(UserWarning, match="layer1.0.bn2; remove"):
            remove(again)
        assert again.folding == folded.folding
        save(again, tmp_path / "again.safetensors")
        assert inspect(tmp_path / "again.safetensors").folding == folded.folding
    with pytest.raises(CheckpointError, match="save the whole model"):
        save(folded, tmp_path / "attention.pt", attention_only=True)
    assert "layer1.0: se was folded into layer1.0.bn2; remove() leaves it there" in folded.injection.plan.notes
    exported = torch.export.export(folded, (x,)).module()
    torch.testing.assert_close(exported(x), folded(x))
    with pytest.warns(UserWarning, match="not the one that it was put into") as said:
        bare = remove(folded)
    (warning,) = said
    assert all(f"{block}: se was folded" in str(warning.message) for block in folded.folding.folded)
    assert warning.filename == __file__
    assert torch.equal(bare.layer1[0].bn2.weight, folded.layer1[0].bn2.weight)
    folded.train()(x).sum().backward()
    assert folded.layer1[0].bn2.weight.grad is not None
    assert folded.layer2[0].se.fc1.weight.grad is not None


def test_what_was_not_folded_is_removed_in_silence(still: InjectedModule) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        remove(still)


def test_all_sites_of_a_model(tmp_path: Path) -> None:
    patched = inject(randomised(models()["resnet20"]()), "se", init="identity", stages=0)
    folded = fold(patched, data(2), 0.0, bench_seconds=0)
    assert len(folded.folding.folded) == 3
    assert folded.injection.plan.insertions == ()
    save(folded, tmp_path / "net.pt")
    x = data(1)[0]
    assert torch.equal(load(tmp_path / "net.pt", models()["resnet20"]()).eval()(x), folded.eval()(x))


@pytest.fixture(scope="module")
def learned() -> nn.Module:
    """A small network that knows the digits, with SE at three sites."""
    torch.manual_seed(0)
    return digits.train(inject(digits.Net(width=8, blocks=1), "se", reduction=4, input_size=digits.SIZE), epochs=4)


def test_the_tolerance_holds_on_digits_that_were_not_seen(learned: nn.Module) -> None:
    patched = learned
    x, _ = digits.images()
    seen, unseen = x[digits.TRAINED_ON : digits.TRAINED_ON + 300], x[digits.TRAINED_ON + 300 :]
    counts = []
    for tolerance in (0.0, 0.05, 1.0):
        folded = fold(patched, seen.split(50), tolerance, bench_seconds=0)
        counts.append(len(folded.folding.folded))
        with torch.no_grad():
            change = ((folded(unseen) - patched(unseen)).norm(dim=1) / patched(unseen).norm(dim=1)).mean()
        assert float(change) <= tolerance + 1e-6
        assert folded.folding.error.mean == pytest.approx(float(change), abs=0.2 * tolerance + 1e-6)
    assert counts[0] == 0 < counts[1] < counts[2] == 3


def test_by_accuracy_more_of_the_digits_network_folds_than_by_outputs(learned: nn.Module) -> None:
    x, y = digits.images()
    begin, end = digits.TRAINED_ON, digits.TRAINED_ON + 400
    seen = list(zip(x[begin:end].split(50), y[begin:end].split(50), strict=True))
    folded = fold(learned, seen, 0.015, by="accuracy", bench_seconds=0)
    found = folded.folding
    assert len(fold(learned, seen, 0.015, bench_seconds=0).folding.folded) < len(found.folded)
    assert (found.measure, found.images, found.tolerance) == ("accuracy", 200, 0.015)
    assert found.error.low <= found.error.mean <= found.error.high <= 0.015
    with torch.no_grad():
        before, after = ((model(x[end:]).argmax(1) == y[end:]).double() for model in (learned, folded))
    assert float((before - after).mean()) <= 0.015


def test_the_accuracy_allowed_holds_on_images_that_were_not_seen() -> None:
    """About a tenth of all answers changes: some draws of data allow the fold, and where one does it holds."""
    x, labels = images(4000, seed=99)
    patched, folded_at = unmoved(), []
    patched.head.bias.data[0] = 3.12
    for seed in range(4):
        folded = fold(patched, batches(600, size=50, seed=seed), 0.1, by="accuracy", bench_seconds=0)
        folded_at.append(bool(folded.folding.folded))
        with torch.no_grad():
            before, after = ((model(x).argmax(1) == labels).double() for model in (patched, folded))
        assert float((before - after).mean()) <= 0.1
    assert folded_at[:3] == [True, False, False]


def test_where_outputs_move_and_no_answer_does_accuracy_folds_and_outputs_do_not() -> None:
    patched, data = unmoved(), batches(800)
    by_outputs = fold(patched, data, 0.01, bench_seconds=0)
    assert by_outputs.folding.folded == ()
    assert re.search(r"outputs would change by \d+\.?\d* %, up to \d+", by_outputs.folding.kept[0][1])
    folded = fold(patched, data, 0.01, by="accuracy", bench_seconds=0)
    assert folded.folding.folded == ("",)
    assert folded.folding.error.mean == 0
    assert 0 < folded.folding.error.high <= 0.01
    x, labels = images(400, seed=9)
    with torch.no_grad():
        assert torch.equal(folded(x).argmax(1), labels)
        assert float((folded(x) - patched(x)).abs().max()) > 0.5


def test_where_answers_change_accuracy_does_not_fold_what_outputs_allow() -> None:
    assert fold(planted(), batches(800), 1.0, bench_seconds=0).folding.folded == ("",)
    found = fold(planted(), batches(800), 0.2, by="accuracy", bench_seconds=0).folding
    assert found.folded == ()
    assert re.fullmatch(r"5\d(\.\d)? points of accuracy would be lost, up to 5\d(\.\d)?", found.kept[0][1])
    assert found.error.mean == 0


def test_outputs_that_are_no_numbers_stay_within_nothing(still: InjectedModule) -> None:
    still.conv1.weight.data.fill_(torch.nan)
    with pytest.raises(AttnInjectError, match="are not all finite numbers"):
        fold(still, data(), 1.0, bench_seconds=0)


@pytest.mark.parametrize("shuffled", [True, False])
def test_no_image_that_is_kept_aside_was_looked_at(shuffled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(
        TensorDataset(torch.arange(24.0).view(24, 1, 1, 1)), batch_size=4, shuffle=shuffled, generator=generator
    )
    halves = Halves(loader, None, nn.Linear(1, 1))
    looked, aside = ([x for b in halves.part(part) for x in b.inputs.tensors[0].flatten().tolist()] for part in (0, 1))
    assert sorted(looked + aside) == list(range(24))
    assert [x for batch in halves.part(1) for x in batch.inputs.tensors[0].flatten().tolist()] == aside
    monkeypatch.setattr("attn_inject.studying.costing.MOST_BYTES", 3 * 16)
    if shuffled:
        with pytest.warns(UserWarning, match="the first 3 batches were taken"):
            halves = Halves(loader, None, nn.Linear(1, 1))
        assert [len(list(halves.part(part))) for part in (0, 1)] == [2, 1]


def test_accuracy_takes_classes_and_enough_images() -> None:
    patched, data = unmoved(), batches(400)
    with pytest.raises(AttnInjectError, match=r"^folding by accuracy takes .*\(the data has no targets\)$"):
        fold(patched, [x for x, _ in data], 0.1, by="accuracy")
    with pytest.raises(AttnInjectError, match="fold by the outputs instead"):
        fold(patched, [(x, torch.randn(len(x), 2)) for x, _ in data], 0.1, by="accuracy")
    with pytest.raises(AttnInjectError, match="3 classes in the data, 2 outputs of the model"):
        fold(patched, Feed(data, classes=3), 0.1, by="accuracy")
    with pytest.raises(AttnInjectError, match="give a tolerance above 0"):
        fold(patched, data, 0, by="accuracy")
    with pytest.raises(AttnInjectError, match="by must be one of outputs, accuracy"):
        fold(patched, data, 0.1, by="loss")
    # 1.96 / (n + 2) is at most 0.01 from 194 on.
    x, labels = images(388)

    def cut(size: int, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(zip(x[:count].split(size), labels[:count].split(size), strict=True))

    with pytest.raises(AttnInjectError, match=r"193 images kept aside .* at most 1 points .* that takes 194"):
        fold(patched, cut(193, 386), 0.01, by="accuracy")
    with pytest.raises(AttnInjectError, match=r"29 images kept aside .* that takes 30"):
        fold(patched, cut(29, 58), 0.5, by="accuracy")
    assert fold(patched, cut(194, 388), 0.01, by="accuracy", bench_seconds=0).folding.folded == ("",)


def test_attached_models_scopes_and_layers_of_other_kinds(tmp_path: Path) -> None:
    for make in (lambda: planted("inject"), lambda: planted("attach")):
        patched = make()
        gate: Any = next(module for name, module in patched.named_modules() if name.endswith("gate"))
        nn.init.zeros_(gate.fc.weight)
        nn.init.normal_(gate.fc.bias)
        folded, x = fold(patched, batches(), 1e-5, bench_seconds=0), batches()[0][0]
        assert folded.folding.folded == ("",)
        torch.testing.assert_close(folded(x), patched(x))
    net: Any = toys.channels_last().eval()
    patched = inject(net, "se", init="identity", input_size=net.size)
    nn.init.constant_(patched.get_submodule("body.se.fc2").weight, 0)
    folded = fold(patched, [torch.randn((2, *net.size)) for _ in range(2)], 1e-5, bench_seconds=0)
    assert folded.folding.folded == ("body",)
    part = inject(randomised(models()["resnet20"]()), "se", init="identity", scope="layer1", input_size=(16, 16, 16))
    folded = fold(part, data(2), 1e-5, bench_seconds=0)
    assert folded.folding.folded == ("layer1.0", "layer1.1", "layer1.2")
    save(folded, tmp_path / "part.pt")
    assert load(tmp_path / "part.pt", models()["resnet20"]()).folding == folded.folding
    torch.testing.assert_close(folded.eval()(data(1)[0]), part.eval()(data(1)[0]))


def test_what_no_layer_can_take_stays_with_the_reason() -> None:
    concat: Any = toys.inception().eval()
    patched = inject(concat, "se", init="identity", input_size=concat.size)
    folded = fold(patched, [torch.randn((2, *concat.size)) for _ in range(2)], 1.0, bench_seconds=0)
    assert folded.folding.folded == ()
    assert "no norm or convolution alone" in folded.folding.kept[0][1]
    tied = Passing()
    tied.a.weight = tied.b.weight
    patched = inject(tied, "eca", input_size=(4, 3, 3))
    with pytest.raises(LookupError, match="shares its weights"):
        layer_before(patched, patched.injection.plan.insertions[0])
    maps = inject(models()["resnet20"](), "timm:cbam", include="layer1.0")
    folded = fold(maps, data(2), 1.0, bench_seconds=0)
    assert "it is no gate" in folded.folding.kept[0][1]


def test_a_shared_block_is_folded_once() -> None:
    net = randomised(toys.shared_block())
    patched = inject(net, "se", init="identity", input_size=toys.Toy.size).eval()
    nn.init.zeros_(patched.get_submodule("body.block.se.fc2").weight)
    x = torch.randn((2, *toys.Toy.size))
    folded = fold(patched, [x, x], 1e-5, bench_seconds=0)
    assert folded.folding.folded == ("body.block",)
    torch.testing.assert_close(folded(x), patched(x))


def test_data_and_tolerances_that_do_not_do(still: InjectedModule) -> None:
    with pytest.raises(AttnInjectError, match="at least two batches"):
        fold(still, data(1), 0.01)
    with pytest.raises(AttnInjectError, match="tolerance must be"):
        fold(still, data(), -1)
    with pytest.raises(PlanError):
        fold(Passing(), data())
    once = fold(still, iter(data()), 1e-4, bench_seconds=0.2)
    assert set(once.folding.folded) == set(fold(still, data(), 1e-4, bench_seconds=0).folding.folded)
    assert once.folding.speed.ratio > 0
    assert gates(once, data(1), ablation=False).sites[0].block == "layer2.0"
    assert isinstance(fold(attach(models()["resnet20"](), "eca"), data(2), 0, bench_seconds=0), InjectedModule)


@pytest.mark.parametrize("hooked", ["layer1.0.bn2", "layer1.0.se"])
def test_what_has_hooks_is_not_folded(still: InjectedModule, hooked: str) -> None:
    """A factor in the layer would come before what a hook changes."""
    still.get_submodule(hooked).register_forward_hook(lambda module, given, out: out + 1)
    x = data(1, seed=7)[0]
    folded = fold(still, data(), 1e-4, bench_seconds=0)
    assert set(folded.folding.folded) == {"layer1.1", "layer1.2"}
    assert dict(folded.folding.kept)["layer1.0"] == "hooks on it, or on the layer before it, may change what passes"
    torch.testing.assert_close(folded(x), still(x), rtol=1e-4, atol=1e-4)


def test_a_gate_is_seen_with_what_its_hooks_make_of_it(still: InjectedModule) -> None:
    before = gates(still, data()).sites[0].weight
    still.layer1[0].se.register_forward_hook(lambda module, given, out: 0.5 * out)
    assert gates(still, data()).sites[0].weight == pytest.approx(0.5 * before, rel=1e-5)
