"""How many parts there are of what code goes over: of a split, of a list or a dict that is an input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import GuardError, attach, inject, load, save
from attn_inject.types import Guard
from tests.toys import Residual


class Parts(nn.Module):
    """Goes over what `take` makes of its maps."""

    def __init__(self, take: Callable[[Any], Any]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = Residual(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.take = take

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.take(self.block(self.stem(x)))
        return torch.cat([part * (number + 1) for number, part in enumerate(parts)], -1)


BY_SIZE: dict[str, Callable[[torch.Tensor], Any]] = {
    "split": lambda x: x.split(8, 3),
    "split, by name": lambda x: torch.split(tensor=x, split_size_or_sections=8, dim=-1),
    "chunk": lambda x: torch.chunk(x, 5, dim=3),
    "chunk, by name": lambda x: torch.chunk(input=x, chunks=5, dim=3),
    "unbind": lambda x: [y[..., None] for y in x.unbind(3)],
    "the later parts": lambda x: x.split(8, 3)[1:],
    "backwards": lambda x: reversed(x.split(8, 3)),
    "by number": lambda x: [x.split(8, 3)[index] for index in range(len(x.split(8, 3)))],
}


@pytest.mark.parametrize("take", BY_SIZE)
@pytest.mark.slow
def test_parts_of_an_axis_of_the_image_hold_for_its_size(take: str) -> None:
    model = Parts(BY_SIZE[take]).eval()
    patched = inject(model, "eca", init="identity", example_inputs=torch.randn(2, 3, 16, 16)).eval()
    assert not patched.injection.any_size
    for size in ((2, 3, 16, 16), (3, 3, 9, 16)):
        x = torch.randn(size)
        assert torch.equal(patched(x), model(x))
    attached: Any = attach(model, "eca", init="identity", example_inputs=torch.randn(2, 3, 16, 16)).eval()
    for size in ((2, 3, 16, 32), (2, 3, 16, 25)):
        x = torch.randn(size)
        with pytest.raises(GuardError, match=r"test_lengths.py.*pass example_inputs of this size"):
            patched(x)
        assert torch.equal(attached(x), model(x))


def test_halves_of_which_an_odd_size_has_three() -> None:
    model = Parts(lambda x: x.split(x.shape[3] // 2, 3)).eval()
    patched = inject(model, "eca", init="identity", example_inputs=torch.randn(2, 3, 16, 16)).eval()
    x = torch.randn(1, 3, 16, 20)
    assert torch.equal(patched(x), model(x))
    with pytest.raises(GuardError, match="came to 2, and this input makes it 3"):
        patched(torch.randn(1, 3, 16, 21))


ALWAYS: dict[str, Callable[[torch.Tensor], Any]] = {
    "channels": lambda x: x.chunk(2, 1),
    "all sizes given": lambda x: x.split([3, 5], dim=1)[:1],
    "tensor_split": lambda x: x.tensor_split(3, dim=3),
    "one of them": lambda x: [x.split(8, 3)[0], x.split(8, 3)[-1]],
}


@pytest.mark.parametrize("take", ALWAYS)
def test_parts_of_which_there_are_always_as_many_hold_for_any_size(take: str) -> None:
    model = Parts(ALWAYS[take]).eval()
    patched = inject(model, "eca", init="identity", example_inputs=torch.randn(2, 3, 16, 16)).eval()
    assert (patched.injection.any_size, patched.injection.guards) == (True, ())
    for size in ((2, 3, 16, 16), (3, 3, 9, 27)):
        x = torch.randn(size)
        assert torch.equal(patched(x), model(x))


class Given(nn.Module):
    """Does with a structure of images what `run` says."""

    def __init__(self, run: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            Residual(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)),
        )
        self.run = run

    def forward(self, given: Any) -> Any:
        return self.run(self.net, given)


def images(number: int, size: int = 8) -> list[torch.Tensor]:
    return [torch.randn(1, 3, size, size) for _ in range(number)]


def named(*names: str, size: int = 8) -> dict[str, torch.Tensor]:
    return dict(zip(names, images(len(names), size), strict=True))


STRUCTURES: dict[str, tuple[Callable[[Any, Any], Any], Any, list[Any], list[Any]]] = {
    # What it does, what it is traced on, what else it takes, and what it does not.
    "a list": (
        lambda net, given: torch.stack([net(x).mean() for x in given]),
        images(2),
        [images(2, 12), tuple(images(2))],
        [images(3), images(1), torch.randn(3, 1, 3, 8, 8)],
    ),
    "its length": (lambda net, given: net(given[0]) * len(given), images(2), [images(2, 12)], [images(3), images(1)]),
    "a list in a dict": (
        lambda net, given: torch.stack([net(x).mean() for x in given["views"]]),
        {"views": images(2)},
        [{"views": images(2, 12), "more": 1}],
        [{"views": images(3)}],
    ),
    "items": (
        lambda net, given: {name: net(x).mean() for name, x in given.items()},
        named("a", "b"),
        [named("a", "b", size=12)],
        [named("a", "b", "c"), named("a"), named("a", "c")],
    ),
    "keys": (
        lambda net, given: torch.stack([net(given[name]).mean() for name in given]),
        named("a", "b"),
        [named("a", "b", size=12)],
        [named("a", "b", "c")],
    ),
    "whether there is one": (
        lambda net, given: net(given["a"]) * 2 if "b" in given else net(given["a"]),
        named("a"),
        [named("a", size=12), named("a", "c")],
        [named("a", "b")],
    ),
    "one or nothing": (
        lambda net, given: net(given["a"]) if given.get("b") is None else net(given["a"]) + net(given["b"]),
        named("a", "b"),
        [named("a", "b", size=12), named("b", "c", "a")],
        [named("a")],
    ),
    "nothing that may be something": (
        lambda net, given: net(given["a"]) if given["b"] is None else net(given["a"]) * given["b"],
        {"a": images(1)[0], "b": None},
        [{"a": images(1, 12)[0], "b": None}],
        [{"a": images(1)[0], "b": torch.tensor(2.0)}],
    ),
    "a word": (
        lambda net, given: net(given["a"]) * {"one": 1, "two": 2}[given["b"]],
        {"a": images(1)[0], "b": "one"},
        [{"a": images(1, 12)[0], "b": "one"}],
        [{"a": images(1)[0], "b": "two"}],
    ),
    "whether there is any": (
        lambda net, given: net(given["a"]) * 2 if given["more"] else net(given["a"]),
        {"a": images(1)[0], "more": []},
        [{"a": images(1, 12)[0], "more": []}],
        [{"a": images(1)[0], "more": images(1)}],
    ),
    "a list or one": (
        lambda net, given: net(given[0] if isinstance(given, (list, tuple)) else given),
        images(2),
        [images(1, 12), tuple(images(3))],
        [images(1)[0]],
    ),
    "a list and no tuple": (
        lambda net, given: net(given[0] if isinstance(given, list) else given[1]),
        images(2),
        [images(1, 12)],
        [tuple(images(2))],
    ),
    "handed on": (lambda net, given: net(torch.cat(given)), images(2), [images(3), images(1, 12)], []),
    "the first": (lambda net, given: net(given[0]), images(2), [images(3), images(1, 12)], []),
}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[name], other[name]) for name in one)
    return torch.equal(one, other)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.slow
def test_a_structure_that_is_given_is_what_it_was_or_is_refused(name: str) -> None:
    run, traced_on, others, refused = STRUCTURES[name]
    model = Given(run).eval()
    patched = inject(model, "eca", init="identity", example_inputs=(traced_on,)).eval()
    for given in (traced_on, *others):
        assert equal(patched(given), model(given))
    for given in refused:
        with pytest.raises(GuardError, match=r"pass example_inputs with such an argument when injecting"):
            patched(given)
    assert bool(patched.injection.guards) == bool(refused)


def test_an_argument_that_decides_is_named_so() -> None:
    class Modes(Parts):
        def forward(self, x: torch.Tensor, mode: str = "a", times: int = 1) -> torch.Tensor:
            x = self.block(self.stem(x))
            for _ in range(times):
                x = x * 2
            return x if mode == "a" else -x

    x = torch.randn(1, 3, 8, 8)
    patched = inject(Modes(list), "eca", example_inputs=(x, "a", 2))
    assert [guard.outcome for guard in patched.injection.guards] == ["a", "2"]
    for given in ((x, "b", 2), (x, "a", 3)):
        with pytest.raises(GuardError, match="with such an argument"):
            patched(*given)


def test_a_file_keeps_what_its_graphs_hold_for(tmp_path: Any) -> None:
    model = Given(STRUCTURES["items"][0])
    patched = inject(model, "eca", example_inputs=(named("a", "b"),))
    save(patched, tmp_path / "items.pt")
    loaded: Any = load(tmp_path / "items.pt", model)
    (guard,) = loaded.injection.guards
    assert isinstance(guard, Guard)
    assert guard.outcome == "('a', 'b')"
    with pytest.raises(GuardError, match=r"\('a',\)"):
        loaded(named("a"))


class OfTheBatch(nn.Module):
    """Asks for the length of a tensor, which is how many images there are."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.head = nn.Linear(8, 4)
        self.use = use

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.nn.functional.adaptive_avg_pool2d(x + self.body(x), 1)
        if self.use == "view":
            return self.head(x.view(len(x), -1))
        if self.use == "factory":
            return self.head(x.flatten(1)) + torch.zeros(len(x), 4)
        if self.use == "number":
            return self.head(x.flatten(1)) / len(x)
        if self.use == "loop":
            return torch.stack([self.head(x[index].flatten()) for index in range(len(x))])
        assert len(x.shape) == 4
        assert len(x) == 2
        return self.head(x.flatten(1))


@pytest.mark.parametrize("use", ["view", "factory", "number"])
def test_the_length_of_a_tensor_is_no_fact(use: str) -> None:
    model = OfTheBatch(use).eval()
    patched = inject(model, "eca", init="identity", example_inputs=torch.randn(2, 3, 8, 8)).eval()
    assert patched.injection.any_size
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 8, 8)
        assert torch.equal(patched(x), model(x))


@pytest.mark.parametrize("use", ["loop", "assert"])
def test_the_length_of_a_tensor_that_code_decides_on_is_a_guard(use: str) -> None:
    model = OfTheBatch(use).eval()
    patched = inject(model, "eca", init="identity", example_inputs=torch.randn(2, 3, 8, 8)).eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(patched(x), model(x))
    with pytest.raises(GuardError, match="len"):
        patched(torch.randn(3, 3, 8, 8))
