"""Constant gates fold within float error, others within the tolerance, and the result is a patched model like any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import AttnInjectError, InjectedModule, PlanError, attach, fold, gates, inject, load, remove, save
from attn_inject.surgery.constants import layer_before
from attn_inject.zoo.cifar import models
from tests import toys
from tests.studying import digits
from tests.studying.planted import Passing, batches, planted


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


def test_it_trains_saves_loads_exports_and_says_what_remove_leaves(still: InjectedModule, tmp_path: Path) -> None:
    folded, x = fold(still, data(), 1e-4, bench_seconds=0), data(1)[0]
    save(folded, tmp_path / "net.pt")
    for form in ("graph", "module"):
        again = load(tmp_path / "net.pt", models()["resnet20"](), form=form)
        assert torch.equal(again.eval()(x), folded(x))
    assert "layer1.0: se was folded into layer1.0.bn2; remove() leaves it there" in folded.injection.plan.notes
    exported = torch.export.export(folded, (x,)).module()
    torch.testing.assert_close(exported(x), folded(x))
    bare = remove(folded)
    assert torch.equal(bare.layer1[0].bn2.weight, folded.layer1[0].bn2.weight)
    folded.train()(x).sum().backward()
    assert folded.layer1[0].bn2.weight.grad is not None
    assert folded.layer2[0].se.fc1.weight.grad is not None


def test_all_sites_of_a_model(tmp_path: Path) -> None:
    patched = inject(randomised(models()["resnet20"]()), "se", init="identity", stages=0)
    folded = fold(patched, data(2), 0.0, bench_seconds=0)
    assert len(folded.folding.folded) == 3
    assert folded.injection.plan.insertions == ()
    save(folded, tmp_path / "net.pt")
    x = data(1)[0]
    assert torch.equal(load(tmp_path / "net.pt", models()["resnet20"]()).eval()(x), folded.eval()(x))


def test_the_tolerance_holds_on_digits_that_were_not_seen() -> None:
    torch.manual_seed(0)
    patched = digits.train(inject(digits.Net(width=8, blocks=1), "se", reduction=4, input_size=digits.SIZE), epochs=4)
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


def test_attached_models_scopes_and_layers_of_other_kinds() -> None:
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
    assert len(folded.folding.folded) == 3
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
    assert once.folding.race.ratios[1].median > 0
    assert gates(once, data(1), ablation=False).sites[0].block == "layer2.0"
    assert isinstance(fold(attach(models()["resnet20"](), "eca"), data(2), 0, bench_seconds=0), InjectedModule)
