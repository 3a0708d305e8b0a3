"""A hook that a graph never runs is named, once, and only such a hook."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from attn_inject import InjectedModule, attach, inject, remove, report

from .. import toys

SIZE = (3, 16, 16)
IMAGE = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))


def toy(blocks: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return toys.Toy(nn.Sequential(*(toys.Block(toys._iadd) for _ in range(blocks)))).eval()


def graph(blocks: int = 2) -> InjectedModule:
    return inject(toy(blocks), "se", reduction=4, input_size=SIZE).eval()


def nothing(*_: Any) -> None:
    """A hook that pickles."""


def said(model: nn.Module) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(IMAGE)
    assert all(warning.filename == __file__ for warning in caught)
    return [str(warning.message) for warning in caught]


SENTENCE = (
    "hooks on body.1 never run: the graph calls what these modules hold, but not the modules themselves; "
    "hook a module that it calls, or use attach(), whose blocks are called"
)


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
def test_a_hook_on_a_block_is_named_once(register: str) -> None:
    patched = graph()
    assert said(patched) == []
    handle = getattr(patched.get_submodule("body.1"), register)(nothing)
    assert said(patched) == [SENTENCE]
    assert said(patched) == []
    handle.remove()
    # Another hook was registered meanwhile, so that they are looked for again.
    patched.get_submodule("head").register_forward_hook(nothing)
    assert said(patched) == []


def test_what_runs_is_not_named() -> None:
    patched = graph()
    patched.register_forward_hook(nothing)
    for path in ("stem", "body.1.se", "body.0.conv1"):
        patched.get_submodule(path).register_forward_hook(nothing)
    assert said(patched) == []
    attached = attach(toy(), "se", reduction=4, input_size=SIZE).eval()
    attached.get_submodule("body.1").register_forward_hook(nothing)
    assert said(attached) == []


def test_who_hooks_all_modules_is_not_told() -> None:
    patched = graph()
    for module in patched.modules():
        module.register_forward_hook(nothing)
    assert said(patched) == []


def test_what_counts_and_times_is_not_named() -> None:
    size = (3, 32, 32)
    bare = remove(inject(torchvision.models.resnet18(num_classes=10), "se", input_size=size))
    patched = inject(bare, "eca", input_size=size)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        made = report(bare, patched, input_size=size, bench_seconds=0.1, device="cpu")
    assert made.total("FLOPs").difference > 0


def test_hooks_of_the_original_are_in_the_record_instead() -> None:
    model = toy()
    model.get_submodule("body.1").register_forward_hook(nothing)
    patched = inject(model, "se", reduction=4, input_size=SIZE).eval()
    assert any(loss.startswith("forward hook on body.1: ") for loss in patched.injection.not_kept)
    for each in (patched, copy.deepcopy(patched), pickle.loads(pickle.dumps(patched))):
        assert said(each) == []


def test_three_of_many_are_named() -> None:
    patched = graph(5)
    for block in patched.get_submodule("body").children():
        block.register_forward_hook(nothing)
    (sentence,) = said(patched)
    assert sentence.startswith("hooks on body.0, body.1, body.2 and 2 more never run: ")


def test_copies_and_pickles_look_for_themselves() -> None:
    patched = graph()
    assert said(patched) == []
    for other in (copy.copy(patched), copy.deepcopy(patched), pickle.loads(pickle.dumps(patched))):
        handle = other.get_submodule("body.1").register_forward_hook(nothing)
        assert said(other) == [SENTENCE]
        handle.remove()
    patched.get_submodule("body.1").register_forward_hook(nothing)
    # Another process has said nothing yet.
    assert said(pickle.loads(pickle.dumps(patched))) == [SENTENCE]


def test_compilers_and_exports_do_not_look() -> None:
    patched = graph()
    expected = patched(IMAGE)
    patched.get_submodule("body.1").register_forward_hook(nothing)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        compiled = torch.compile(patched, backend="eager", fullgraph=True)
        assert torch.equal(compiled(IMAGE), expected)
        exported = torch.export.export(patched, (IMAGE,))
    assert torch.equal(exported.module()(IMAGE), expected)
