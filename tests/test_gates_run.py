"""No way to make, wrap, move, save or rewrite a patched model loses a gate in silence: gates are hooked and counted."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import (
    PlanError,
    apply_plan,
    attach,
    detach,
    fold,
    freeze_original,
    gates,
    inject,
    load,
    make_plan,
    optimize,
    optimize_training,
    remove,
    save,
)
from attn_inject.attention.se import SE
from attn_inject.cli.main import run
from attn_inject.optimizing.optimized import OptimizedModule
from attn_inject.surgery.forms import as_graph

from . import twice

# Each runs what other tests run already, many times over: measuring what it covers takes as long as running it.
pytestmark = pytest.mark.no_cover

SIZE = (3, 16, 16)
CHOICES: dict[str, Any] = {"reduction": 4, "input_size": SIZE}


# How often each gate runs in one pass.
RUNS = Counter({"body.shared.se": 2, "body.last.se": 1})


def _injected(model: nn.Module) -> nn.Module:
    return inject(model, "se", **CHOICES)


def _saved(suffix: str, **options: Any) -> Callable[[nn.Module, Path], nn.Module]:
    def way(model: nn.Module, folder: Path) -> nn.Module:
        path = folder / f"m{suffix}"
        save(_injected(model), path, **options)
        return load(path, model)

    return way


def _by_command(model: nn.Module, folder: Path) -> nn.Module:
    path = folder / "m.pt"
    source = f"{Path(twice.__file__)}:make"
    words = [source, "-a", "se", "--reduction", "4", "--input-size", "16", "--no-bench", "--out", str(path)]
    assert run(words) == 0
    return load(path, model)


def _data() -> list[torch.Tensor]:
    return [torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


def _looked_at(patched: nn.Module) -> nn.Module:
    """A look takes sites out and freezes them, one after the other, and puts all back."""
    gates(patched, _data())
    return patched


def _used_again(model: nn.Module, _: Path) -> nn.Module:
    """The other block first, then the one that is left."""
    first = inject(model, "se", include="body.last", **CHOICES)
    return inject(first, "se", **CHOICES)


def _restored(model: nn.Module, _: Path) -> nn.Module:
    patched = _injected(model)
    fresh = _injected(twice.make())
    fresh.load_state_dict(patched.state_dict())
    return fresh


def _attached(model: nn.Module, **choices: Any) -> nn.Module:
    return attach(model, "se", **{**CHOICES, **choices})


def _saved_attached(suffix: str, form: Any, **options: Any) -> Callable[[nn.Module, Path], nn.Module]:
    def way(model: nn.Module, folder: Path) -> nn.Module:
        save(_attached(model), folder / f"m{suffix}", **options)
        made: nn.Module = load(folder / f"m{suffix}", model, form=form)
        return made

    return way


def _attached_by_command(model: nn.Module, folder: Path) -> nn.Module:
    source = f"{Path(twice.__file__)}:make"
    words = [source, "-a", "se", "--reduction", "4", "--input-size", "16", "--no-bench", "--form", "module", "--out"]
    assert run([*words, str(folder / "m.pt")]) == 0
    return load(folder / "m.pt", model, form="module")


def _attached_again(model: nn.Module, _: Path) -> nn.Module:
    return _attached(_attached(model, include="body.last"))


def _through_a_pickle_of_torch(model: nn.Module, folder: Path) -> nn.Module:
    torch.save(_attached(model), folder / "whole.pt")
    made: nn.Module = torch.load(folder / "whole.pt", weights_only=False)
    return made


def _filled(model: nn.Module, _: Path) -> nn.Module:
    """Attached, then given a graph's weights, strictly."""
    attached = _attached(model)
    attached.load_state_dict(_injected(twice.make(type(model))).state_dict())
    return attached


WAYS: dict[str, Callable[[nn.Module, Path], nn.Module]] = {
    "inject": lambda model, _: _injected(model),
    "inject twice": _used_again,
    "inject a scope": lambda model, _: inject(model, "se", scope="body", reduction=4, input_size=(16, 16, 16)),
    "apply_plan": lambda model, _: apply_plan(model, make_plan(model, "se", **CHOICES)),
    "attach": lambda model, _: attach(model, "se", **CHOICES),
    "attach, copied": lambda model, _: copy.deepcopy(attach(model, "se", **CHOICES)),
    "attach, pickled": lambda model, _: pickle.loads(pickle.dumps(attach(model, "se", **CHOICES))),
    "attach, a copy": lambda model, _: _attached(model, copy=True),
    "attach, twice": _attached_again,
    "attach a scope": lambda model, _: attach(model, "se", scope="body", reduction=4, input_size=(16, 16, 16)),
    "attach, torch.save": _through_a_pickle_of_torch,
    "attach, state dict": _filled,
    "attach, frozen": lambda model, _: freeze_original(_attached(model)),
    "attach, float64": lambda model, _: _attached(model).double(),
    "attach, in a Sequential": lambda model, _: nn.Sequential(_attached(model)),
    "attach, in DataParallel": lambda model, _: nn.DataParallel(_attached(model)),
    "attach, .pt": _saved_attached(".pt", "module"),
    "attach, .safetensors": _saved_attached(".safetensors", "module"),
    "attach, .pt, attention only": _saved_attached(".pt", "module", attention_only=True),
    "attached, .pt as a graph": _saved_attached(".pt", "graph"),
    "attached, as a graph": lambda model, _: as_graph(_attached(model)),
    "attached, optimize_training": lambda model, _: optimize_training(_attached(model)),
    "attach, command line": _attached_by_command,
    "inject, a copy": lambda model, _: inject(model, "se", copy=True, **CHOICES),
    "inject, frozen": lambda model, _: freeze_original(_injected(model)),
    "copied": lambda model, _: copy.deepcopy(_injected(model)),
    "copied flat": lambda model, _: copy.copy(_injected(model)),
    "pickled": lambda model, _: pickle.loads(pickle.dumps(_injected(model))),
    "state dict": _restored,
    "float64": lambda model, _: _injected(model).double(),
    "in a Sequential": lambda model, _: nn.Sequential(_injected(model)),
    "in DataParallel": lambda model, _: nn.DataParallel(_injected(model)),
    ".pt": _saved(".pt"),
    ".safetensors": _saved(".safetensors"),
    ".pt, attention only": _saved(".pt", attention_only=True),
    ".safetensors, attention only": _saved(".safetensors", attention_only=True),
    "command line": _by_command,
    "optimize_training": lambda model, _: optimize_training(_injected(model)),
    "a spec": lambda model, _: inject(model, "se:reduction=4", input_size=SIZE),
    "attach, a spec": lambda model, _: attach(model, "se:reduction=4", input_size=SIZE),
    "looked at": lambda model, _: _looked_at(_injected(model)),
    "attach, looked at": lambda model, _: _looked_at(_attached(model)),
    "nothing folded": lambda model, _: fold(_injected(model), _data(), 0.0, bench_seconds=0),
}


def _output(model: nn.Module) -> torch.Tensor:
    x = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(1))
    out: torch.Tensor = model(x.to(next(model.parameters()).dtype))
    return out.detach()


@pytest.fixture
def worked_out(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each gate, by its identity, worked out weights: whatever form calls it, and by whatever method."""
    worked: Counter[int] = Counter()
    excite = SE.excite

    def counted(self: SE, squeezed: torch.Tensor) -> torch.Tensor:
        worked[id(self)] += 1
        return excite(self, squeezed)

    monkeypatch.setattr(SE, "excite", counted)
    return worked


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_gate_runs_as_often_as_its_block(way: str, worked_out: Counter[int], tmp_path: Path) -> None:
    made = WAYS[way](twice.make(), tmp_path)
    fired: Counter[str] = Counter()
    for path, module in made.named_modules():
        if isinstance(module, SE):
            module.register_forward_hook(lambda *_, path=path: fired.update([f"body.{path.partition('body.')[2]}"]))
    for training in (False, True):
        worked_out.clear()
        fired.clear()
        changed = _output(made.train(training))
        assert _by_path(made, worked_out) == _in_body(RUNS)
        # `optimize_training` says that in its train mode hooks on gates do not fire.
        assert fired == (Counter() if training and way.endswith("optimize_training") else RUNS)
        # And what they work out is used.
        assert not torch.allclose(changed.float(), _output(twice.make().train(training)), atol=1e-3)


def _by_path(made: nn.Module, worked_out: Counter[int]) -> Counter[str]:
    modules = {id(module): path for path, module in made.named_modules() if isinstance(module, SE)}
    return _in_body({modules[gate]: count for gate, count in worked_out.items()})


def _in_body(counts: Mapping[str, int]) -> Counter[str]:
    return Counter({path.partition("body.")[2]: count for path, count in counts.items()})


IMAGE = torch.zeros(2, *SIZE)
NAMED: dict[str, Any] = {"example_inputs": {"image": IMAGE, "scale": torch.ones(1)}, "reduction": 4}


def _named(suffix: str) -> Callable[[nn.Module, Path], nn.Module]:
    def way(model: nn.Module, folder: Path) -> nn.Module:
        save(inject(model, "se", **NAMED), folder / f"m{suffix}")
        return load(folder / f"m{suffix}", model, example_inputs=NAMED["example_inputs"])

    return way


NO_GRAPH = ("attach, state dict", "attach, command line", "attach, float64")
# Networks whose code asks, takes or shares what plain ones do not, and the ways to patch each.
OTHERS: dict[str, tuple[type[twice.Twice], Callable[[nn.Module, Path], nn.Module]]] = {
    **{f"asking, {way}": (twice.Asking, WAYS[way]) for way in WAYS if not way.endswith(("command line", "float64"))},
    "named, inject": (twice.Named, lambda model, _: inject(model, "se", **NAMED)),
    "named, attach": (twice.Named, lambda model, _: attach(model, "se", **NAMED)),
    "named, pickled": (twice.Named, lambda model, _: pickle.loads(pickle.dumps(inject(model, "se", **NAMED)))),
    "named, .pt": (twice.Named, _named(".pt")),
    "named, .safetensors": (twice.Named, _named(".safetensors")),
    **{
        f"deciding, {way}": (twice.Deciding, WAYS[way])
        for way in WAYS
        # It has no graph: only its body, which the scope is, has a state dict of one to be filled with.
        if way.startswith("attach") and not way.startswith("attached") and way not in NO_GRAPH
    },
    "deciding, inject a scope": (twice.Deciding, WAYS["inject a scope"]),
    **{
        f"one activation, {way}": (twice.OneActivation, WAYS[way])
        for way in WAYS
        if way.startswith(("attach", "inject")) and not way.endswith(("command line", "float64"))
    },
}


# The plain ways, and each way of the networks that have few; the other pairs run with the sweeps.
QUICK = {way for way in OTHERS if way.startswith("named") or way.partition(", ")[2] in ("inject", "attach")}


@pytest.mark.slow
@pytest.mark.parametrize("way", [w if w in QUICK else pytest.param(w, marks=pytest.mark.zoo) for w in OTHERS])
def test_every_gate_of_other_networks_runs(way: str, worked_out: Counter[int], tmp_path: Path) -> None:
    kind, patch = OTHERS[way]
    made = patch(twice.make(kind), tmp_path)
    x = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(1))
    for training in (False, True):
        worked_out.clear()
        outputs = []
        for net in (made.train(training), twice.make(kind).train(training)):
            given = net(image=x, scale=torch.ones(1))["logits"] if kind is twice.Named else net(x)
            outputs.append(given.detach())
        assert _by_path(made, worked_out) == _in_body(RUNS)
        changed, plain = outputs
        assert not torch.allclose(changed, plain, atol=1e-3)


@pytest.mark.parametrize("form", [_injected, _attached])
def test_under_autocast_a_train_graph_works_every_gate_out_and_once_more_for_the_gradients(
    form: Any, worked_out: Counter[int]
) -> None:
    made = optimize_training(form(twice.make())).train()
    x = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(1))
    worked_out.clear()
    with torch.autocast("cpu", torch.bfloat16):
        changed, plain = made(x), twice.make().train()(x)
    assert _by_path(made, worked_out) == _in_body(RUNS)
    assert not torch.allclose(changed, plain, atol=1e-2)
    once, own = sum(worked_out.values()), {id(module) for module in made.modules()}
    changed.float().square().sum().backward()
    assert sum(worked_out.values()) == 2 * once
    # The second time in gates with the same parameters whose statistics nobody reads.
    assert _by_path(made, Counter({g: n for g, n in worked_out.items() if g in own})) == _in_body(RUNS)
    for module in made.modules():
        if isinstance(module, SE):
            assert all(p.grad is not None and p.grad.any() for p in module.parameters())


FAST: dict[str, Callable[[OptimizedModule], nn.Module]] = {
    "optimize": lambda fast: fast,
    "copied": copy.deepcopy,
    "copied flat": copy.copy,
    "pickled": lambda fast: pickle.loads(pickle.dumps(fast)),
    "in DataParallel": nn.DataParallel,
}


@pytest.mark.parametrize("form", [_injected, _attached])
@pytest.mark.parametrize("way", FAST)
@pytest.mark.slow
def test_an_optimized_graph_works_every_gate_out(way: str, form: Any, worked_out: Counter[int]) -> None:
    fast = optimize(form(twice.make()))
    made = FAST[way](fast)
    worked_out.clear()
    changed = _output(made)
    assert sorted(worked_out.values()) == [1, 2]
    assert torch.equal(changed, _output(fast))
    assert not torch.allclose(changed, _output(twice.make().eval()), atol=1e-3)
    # And it stays what it is: a graph for inference, which says what was done.
    with pytest.raises(PlanError, match="for inference"):
        made.train()
    again = made.module if isinstance(made, nn.DataParallel) else made
    assert again.rewritten == fast.rewritten


BACK: dict[str, Callable[[nn.Module], nn.Module]] = {
    "remove": lambda model: remove(_injected(model)),
    "detach": lambda model: detach(_attached(model)),
    "remove what was attached": lambda model: remove(_attached(model)),
    "detach a pickle": lambda model: detach(pickle.loads(pickle.dumps(_attached(model)))),
}


@pytest.mark.parametrize("back", BACK)
def test_the_way_back_leaves_no_gate(back: str, worked_out: Counter[int]) -> None:
    model = twice.make().eval()
    plain = BACK[back](model)
    worked_out.clear()
    assert torch.equal(_output(plain.eval()), _output(model))
    assert not worked_out
    assert not [module for module in plain.modules() if isinstance(module, SE)]


def test_what_was_folded_in_part_works_the_other_gate_out(worked_out: Counter[int]) -> None:
    """The gate of `last` is made constant, and that of the shared block is pushed about."""
    patched = _injected(twice.make()).eval()
    with torch.no_grad():
        patched.body.last.se.fc2.weight.zero_()
        patched.body.shared.se.fc2.weight.mul_(50)
    made = fold(patched, _data(), 1e-5, bench_seconds=0).eval()
    assert made.folding.folded == ("body.last",)
    assert [path for path, module in made.named_modules() if isinstance(module, SE)] == ["body.shared.se"]
    worked_out.clear()
    changed = _output(made)
    assert worked_out == {id(made.body.shared.se): 2}
    assert torch.allclose(changed, _output(patched), atol=1e-5)
