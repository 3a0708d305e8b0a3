"""Guards as facts of a graph: named, compared, taken out with what only they asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import GuardError, attach, find_sites, inject, load, save, verify
from attn_inject.tracing.guards import guarded, idle_guards, line_of_code, same_graph
from attn_inject.tracing.shapes import trace_at_a_size
from attn_inject.types import Guard, guard_notes

from ..toys import conv


class Even(nn.Module):
    """A block for images of even height, and one for the others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.body = nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if x.shape[2] % 2 == 0:
            return x + self.body(x)
        return x - self.body(x)


class Fixed(Even):
    """Makes its block for the size that it gets."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return x + self.body(x) * (int(x.shape[2] * 1.5) / 24)


def test_a_guard_compares() -> None:
    guarded(3, 3, "net.py:1 `n`")
    with pytest.raises(GuardError) as caught:
        guarded(4, 3, "net.py:1 `n`")
    assert str(caught.value) == (
        "the network was traced where net.py:1 `n` came to 3, and this input makes it 4: "
        "pass example_inputs of this size when injecting, or use attach(), which runs the model's own code"
    )
    assert isinstance(caught.value, RuntimeError)


def test_the_line_of_code_is_the_models() -> None:
    line = line_of_code()
    number = test_the_line_of_code_is_the_models.__code__.co_firstlineno + 1
    assert line == f"tracing/test_guards.py:{number} `line = line_of_code()`"


def test_notes_for_people() -> None:
    guards = [Guard(f"net.py:{n} `if h:`", "True") for n in range(5)]
    assert guard_notes([], any_size=True) == []
    notes = guard_notes(guards, any_size=False)
    assert notes[0].startswith("traced for this input size: ")
    assert notes[1] == "holds while net.py:0 `if h:` comes to True; an input that makes it otherwise is refused"
    assert notes[-1] == "and 2 more decisions like these, each checked when the model runs"
    assert len(notes) == 5


def test_graphs_are_compared_but_for_what_guards_came_to() -> None:
    one, other, third = (
        trace_at_a_size(model, input_size=size).graphs["eval"]
        for model, size in ((Even(), (3, 8, 8)), (Even(), (3, 12, 8)), (Even(), (3, 9, 8)))
    )
    assert same_graph(one, other)
    assert not same_graph(one, third)
    assert idle_guards(one, other) == []


@pytest.mark.parametrize("model", [Even(), Fixed()])
def test_guards_are_named_wherever_people_look(model: nn.Module, tmp_path: Any) -> None:
    model.eval()
    any_size = isinstance(model, Even) and not isinstance(model, Fixed)
    sites = find_sites(model, input_size=16)
    assert len(sites) == 1
    assert sites.any_size is any_size
    (guard,) = sites.guards
    assert "test_guards.py:" in guard.line
    patched = inject(model, "se", reduction=4, init="identity", input_size=16).eval()
    assert (patched.injection.guards, patched.injection.any_size) == (sites.guards, any_size)
    verification = verify(model, patched)
    assert verification.passed
    assert (verification.guards, verification.any_size) == (sites.guards, any_size)
    # Once in each view, though a record holds a verification.
    for printed in (str(verification), str(patched.injection)):
        assert printed.count(f"holds while {guard.line} comes to {guard.outcome}") == 1
        assert ("traced for this input size" in printed) is not any_size
    image = torch.randn(1, 3, 16, 16)
    assert torch.equal(patched(image), model(image))
    with pytest.raises(GuardError):
        patched(torch.randn(1, 3, 15, 16))
    save(patched, tmp_path / "model.pt")
    loaded = load(tmp_path / "model.pt", model).eval()
    assert (loaded.injection.guards, loaded.injection.any_size) == (sites.guards, any_size)
    assert torch.equal(loaded(image), patched(image))


def test_attach_runs_the_models_own_code_at_any_size() -> None:
    model = Even().eval()
    attached = attach(model, "se", reduction=4, init="identity", input_size=16).eval()
    image = torch.randn(1, 3, 15, 16)
    assert torch.equal(attached(image), model(image))
    # Its code decides anew at each call, whatever the graph that it is compared with was read at.
    assert verify(model, attached).guards == ()


@pytest.mark.parametrize("dynamic", [False, True])
def test_guards_live_in_compilers_and_exports(dynamic: bool) -> None:
    patched = inject(Even().eval(), "se", reduction=4, input_size=16).eval()
    image = torch.randn(2, 3, 16, 16)
    compiled = torch.compile(patched, backend="eager", fullgraph=True, dynamic=dynamic)
    assert torch.equal(compiled(image), patched(image))
    exported = torch.export.export(patched, (image,))
    assert torch.equal(exported.module()(image), patched(image))


def test_a_second_injection_knows_what_the_first_did() -> None:
    model = nn.Sequential(Fixed(), nn.Conv2d(16, 3, 1), Fixed()).eval()
    first = inject(model, "se", reduction=4, include="2", input_size=16)
    second = inject(first, "eca", input_size=16)
    assert [insertion.module for insertion in second.injection.plan.insertions] == ["2.se", "0.eca"]
    assert (second.injection.guards, second.injection.any_size) == (first.injection.guards, False)
    assert len(first.injection.guards) == 1
