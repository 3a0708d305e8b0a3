"""Where nodes were made: one place for the same code, whatever the object or the turn of a loop."""

from __future__ import annotations

import pickle

import torch
from torch import fx, nn

from attn_inject import inject
from attn_inject.sites.reading import read
from attn_inject.tracing.nodes import place_of
from attn_inject.tracing.places import place_in_code
from attn_inject.tracing.portable import PortableGraph
from attn_inject.tracing.trace import trace

from ..toys import Block, Quantizable, Toy, conv


class Sums(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 3)

    def _add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            x = self._add(x, self.a(x))
        x = self._add(x, self.a(x))
        return x + self.a(x) + self.a(x)


def _adds(model: nn.Module, size: tuple[int, ...] = (3, 8, 8)) -> list[fx.Node]:
    inputs = (torch.empty((2, *size), device="meta"),)
    graph = trace(model.to("meta"), inputs=inputs, modes=("eval",)).graphs["eval"]
    return [node for node in graph.nodes if "add" in node.name]


def test_turns_of_a_loop_are_one_place_and_other_lines_and_calls_are_others() -> None:
    turn, again, other_call, first, second = map(place_of, _adds(Sums()))
    assert turn == again
    assert len({turn, other_call, first, second}) == 4
    assert turn.startswith("Sums._add:")
    assert " < Sums.forward:" in turn


def test_objects_of_one_class_have_the_same_places() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = Sums(), Sums()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x))

    places = [place_of(node) for node in _adds(Two())]
    assert places[:5] == places[5:]


def test_machinery_between_the_code_and_the_node_is_passed_over() -> None:
    add, *_ = _adds(Quantizable(), (16, 8, 8))
    assert place_of(add).startswith("Quantizable.forward:")
    assert "/" not in place_of(add)


def test_weights_and_layers_need_no_place() -> None:
    inputs = (torch.empty(2, 3, 8, 8, device="meta"),)
    graph = trace(Sums().to("meta"), inputs=inputs, modes=("eval",)).graphs["eval"]
    assert {node.op for node in graph.nodes if place_of(node)} == {"call_function"}


def test_places_stay_with_a_patched_model_and_its_copies() -> None:
    """So that sites are found again by the same rules."""
    model = Toy(Block(torch.add))
    patched = inject(model, "se", reduction=4, input_size=(3, 16, 16))
    for graph in (
        patched.graph_of("eval"),
        read(patched).trace.graphs["eval"],
        PortableGraph(patched.graph_of("eval")).graph(),
    ):
        places = [place_of(node) for node in graph.nodes if "add" in node.name]
        assert places
        assert all(places)
    copied = pickle.loads(pickle.dumps(patched))
    assert [place_of(n) for n in copied.graph_of("eval").nodes] == [place_of(n) for n in patched.graph_of("eval").nodes]


class _Asked:
    def __init__(self) -> None:
        self.places: set[str] = set()

    def __getitem__(self, index: int) -> int:
        self.places.add(place_in_code())
        return index


def test_a_place_is_one_however_often_the_interpreter_has_been_there() -> None:
    """What it has learnt of an instruction lets it go into Python code by itself, and a frame points elsewhere then."""
    asked = _Asked()

    def reading(index: int) -> int:
        return asked[index]

    for index in range(1000):
        reading(index)
    assert len(asked.places) == 1
