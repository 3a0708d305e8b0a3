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
    attach,
    choose,
    compare,
    fold,
    gates,
    inject,
    optimize,
    report,
    save,
    sweep,
)
from tests.toys import preactivation

BATCHES = [(torch.randn(2, 3, 8, 8), torch.tensor([0, 1])) for _ in range(4)]


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
