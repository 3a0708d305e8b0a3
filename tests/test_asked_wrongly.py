"""What a caller asks for wrongly is refused in one sentence that names it, before anything runs or is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import (
    AttnInjectError,
    CheckpointError,
    apply_plan,
    attach,
    choose,
    compare,
    fold,
    gates,
    inject,
    load,
    optimize,
    register_torchvision_model,
    remove,
    report,
    save,
    sweep,
    verify,
)
from tests.toys import preactivation

BATCHES = [(torch.randn(2, 3, 8, 8), torch.tensor([0, 1])) for _ in range(4)]


# What no type checker lets through, as what somebody's own code gave.
NOTHING: Any = None


def _injected(**choices: Any) -> nn.Module:
    return inject(preactivation(), "se", input_size=(3, 8, 8), **choices)


def _patched() -> nn.Module:
    return inject(preactivation(), "eca", input_size=(3, 8, 8))


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "gates, batches": (lambda: gates(_patched(), BATCHES, batches=-1), "batches must be a whole number from 1, got -1"),
    "choose, batches": (
        lambda: choose(preactivation(), "eca", BATCHES, batches=0),
        "batches must be a whole number from 1, got 0",
    ),
    "choose, lr": (lambda: choose(preactivation(), "eca", BATCHES, lr="0.1"), "lr must be a number above 0, got '0.1'"),
    "choose, lr nan": (lambda: choose(preactivation(), "eca", BATCHES, lr=float("nan")), "lr must be a number above 0"),
    "choose, bench_seconds": (
        lambda: choose(preactivation(), "eca", BATCHES, bench_seconds=-1),
        "bench_seconds must be a number from 0, got -1",
    ),
    "choose, steps": (
        lambda: choose(preactivation(), "eca", BATCHES, steps=True),
        "steps must be a whole number from 1, got True",
    ),
    "fold, tolerance": (
        lambda: fold(_patched(), BATCHES, tolerance="0"),
        "tolerance must be a number from 0, got '0'",
    ),
    "sweep, setting": (
        lambda: sweep("resnet18", "se", dtyp="float32"),
        r"there is no setting 'dtyp' \(did you mean dtype\?\); settings are",
    ),
    "sweep, dtype": (
        lambda: sweep("resnet18", "se", dtype="foo", latency=False),
        "'foo' is not a floating-point type; use float32",
    ),
    "sweep, device": (
        lambda: sweep("resnet18", "se", device="gpu", latency=False),
        "'gpu' is not a device; use 'auto', 'cuda' or 'cpu'",
    ),
    "sweep, options": (
        lambda: sweep("resnet18", "se", options=3, latency=False),
        "options must be a dict of choices, or several, got 3",
    ),
    "inject, kinds": (
        lambda: _injected(kinds=None),
        "kinds must be of residual, mixed, plain, stage, attention, got None",
    ),
    "inject, include": (
        lambda: _injected(include=3),
        "include must be a pattern on block paths, or several; got 3",
    ),
    "inject, stages": (lambda: _injected(stages=1.5), "stages must be a stage's number, or several; got 1.5"),
    "inject, stages by word": (
        lambda: _injected(stages=["2"]),
        r"stages must be a stage's number, or several; got \['2'\]",
    ),
    "inject, min_channels": (lambda: _injected(min_channels=-4), "min_channels must be a whole number from 0, got -4"),
    "inject, scope": (lambda: _injected(scope=3), "scope must be the path of a submodule, got 3"),
    "inject, input_size": (
        lambda: inject(preactivation(), "se", input_size="32"),
        r"input_size must be one whole number, \(height, width\) or \(channels, height, width\); got '32'",
    ),
    "inject, stage_options": (
        lambda: _injected(stage_options={1: 3}),
        r"stage_options must be options by stage.*got \{1: 3\}",
    ),
    "apply_plan": (lambda: apply_plan(preactivation(), NOTHING), "plan must be what make_plan.. gives, got None"),
    "remove": (lambda: remove(NOTHING), "expected an nn.Module, got NoneType"),
    "optimize": (lambda: optimize(NOTHING), "expected an nn.Module, got NoneType"),
    "verify": (lambda: verify(preactivation(), NOTHING), "expected an nn.Module, got NoneType"),
    "save": (lambda: save(NOTHING, "net.pt"), "expected an nn.Module, got NoneType"),
    "save, path": (lambda: save(_patched(), NOTHING), "the file to save to must be a path, got None"),
    "load": (lambda: load(NOTHING), "the file to load must be a path, got None"),
    "gates, data": (lambda: gates(_patched(), NOTHING), "data must be batches to go through.*; got None"),
    "gates, loss": (
        lambda: gates(_patched(), BATCHES, loss="ce"),
        "loss must be a function of .outputs, targets., got 'ce'",
    ),
    "choose, resume": (
        lambda: choose(preactivation(), "eca", BATCHES, resume=3),
        "resume must be a path, got 3",
    ),
    "compare, models": (
        lambda: compare(NOTHING, "se"),
        "models must be a model, a source such as 'resnet50', or several",
    ),
    "register": (
        lambda: register_torchvision_model(3, "se"),
        "model must be a name that torchvision knows, got 3",
    ),
    "compare, setting": (lambda: compare(preactivation(), ["se"], bach=1), "there is no setting 'bach'"),
    "compare, batch": (
        lambda: compare(preactivation(), ["se"], batch="1"),
        "batch must be a whole number from 1, got '1'",
    ),
}


@pytest.mark.parametrize("asked", WRONG)
def test_a_value_that_makes_no_sense_is_named(asked: str) -> None:
    ask, message = WRONG[asked]
    with pytest.raises(AttnInjectError, match=message):
        ask()


def test_a_page_or_chart_into_no_folder_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    model = preactivation()
    made = report(model, inject(model, "eca", input_size=(3, 8, 8)), bench=False)
    for write in (made.to_html, made.plot):
        with pytest.raises(CheckpointError, match=r"cannot write .*: the folder .* does not exist"):
            write(tmp_path / "none" / "page.svg")
    assert list(tmp_path.iterdir()) == []


def test_what_optimize_gave_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"files do not keep what optimize\(\) gave: save the model"):
        save(optimize(_patched()), tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


def test_gates_see_attention_wherever_an_attached_model_stands() -> None:
    attached = attach(preactivation(), "se", example_inputs=BATCHES[0][0]).eval()
    alone, within = gates(attached, BATCHES), gates(nn.Sequential(nn.Identity(), attached), BATCHES)
    assert [(row.block, row.weight) for row in within.sites] == [(f"1.{row.block}", row.weight) for row in alone.sites]
    assert within.sites


def test_a_loss_that_nothing_can_be_trained_with_is_refused() -> None:
    def wrong(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs.argmax(1) != targets).float()

    with pytest.raises(AttnInjectError, match=r"the loss has no gradient \(an argmax, a detach\(\)\)"):
        choose(preactivation(), "eca", BATCHES, wrong, steps=1, seeds=1)
    bad = [(x * torch.nan, y) for x, y in BATCHES]
    with pytest.raises(AttnInjectError, match="no finite number at step 0 .*: look at the images, the targets"):
        choose(preactivation(), "eca", bad, steps=1, seeds=1)


@pytest.mark.parametrize("of", [lambda y: y.numpy(), lambda y: tuple(y.tolist()), lambda y: y.tolist()])
def test_targets_may_be_numbers_of_any_kind(of: Callable[[torch.Tensor], Any]) -> None:
    patched = _patched()
    made = gates(patched, [(x, of(y)) for x, y in BATCHES])
    assert (made.measure, made.score) == ("accuracy", gates(patched, BATCHES).score)


def test_targets_that_are_not_read_are_told() -> None:
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.sum(1) * targets

    named = [(x, {"label": y}) for x, y in BATCHES]
    made = gates(_patched(), named)
    assert made.measure == "outputs"
    assert "targets of the data are of the class dict, and not tensors: the outputs are compared" in made.notes
    with pytest.raises(AttnInjectError, match="are of the class dict, and a loss is of tensors: give batches of"):
        gates(_patched(), named, loss=loss)
    with pytest.raises(AttnInjectError, match="the data has no targets, and a loss is of tensors"):
        gates(_patched(), [x for x, _ in BATCHES], loss=loss)
