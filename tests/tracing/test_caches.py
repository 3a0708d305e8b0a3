"""A pass leaves nothing of itself in what a model's code caches, wherever that is, and takes nothing else out of it."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from attn_inject import attach, find_sites, inject
from attn_inject.cost.counting import count
from attn_inject.tracing.calls import run_on_meta
from attn_inject.tracing.inputs import Inputs
from attn_inject.tracing.reach import Reach

from ..toys import conv

TABLE: dict[Any, Any] = {}
LAST: torch.Tensor | None = None
LOADED: list[str] = []


def ramp(height: int, width: int) -> torch.Tensor:
    """What the caches below hold: a tensor of a size."""
    return torch.arange(height * width).view(height, width) / (height * width)


@functools.lru_cache(maxsize=32)
def of_a_function(height: int, width: int) -> torch.Tensor:
    return ramp(height, width)


@functools.cache
def without_bound(height: int, width: int) -> torch.Tensor:
    return ramp(height, width)


@functools.cache
def library() -> str:
    LOADED.append("once")
    return "loaded"


def _wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the cache in a closure, as transformers does."""
    cached = functools.lru_cache(maxsize=4)(function)

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return cached(*args)

    return wrapper


_KNOWN: dict[Any, Any] = {}


def of_defaults(height: int, width: int, known: dict[Any, Any] = _KNOWN) -> torch.Tensor:
    if (height, width) not in known:
        known[height, width] = ramp(height, width)
    return known[height, width]


class Grids:
    """A helper that is no module."""

    def __init__(self) -> None:
        self.made: dict[Any, Any] = {}

    def of(self, height: int, width: int) -> torch.Tensor:
        if (height, width) not in self.made:
            self.made[height, width] = ramp(height, width)
        return self.made[height, width]


GRIDS = Grids()


class Net(nn.Module):
    """One block, and a ramp of the image's size that is added to what it gives."""

    made: ClassVar[dict[Any, Any]] = {}
    last: ClassVar[Any] = None

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.body = nn.Sequential(conv(8, 8), nn.ReLU(), conv(8, 8))

    def grid(self, height: int, width: int) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return x + self.body(x) + self.grid(x.shape[2], x.shape[3])


class OfAMethod(Net):
    @functools.lru_cache(maxsize=32)  # noqa: B019  # which is the point
    def grid(self, height: int, width: int) -> torch.Tensor:
        return ramp(height, width)


class OfAWrappedMethod(Net):
    grid: Any = _wrapped(lambda _, height, width: ramp(height, width))


class WithoutGradients(Net):
    @torch.no_grad()
    def grid(self, height: int, width: int) -> torch.Tensor:
        return of_a_function(height, width)


class OfAFunction(Net):
    def grid(self, height: int, width: int) -> torch.Tensor:
        return of_a_function(height, width)


class WithoutBound(Net):
    def grid(self, height: int, width: int) -> torch.Tensor:
        assert library() == "loaded"
        return without_bound(height, width)


class OfItsClass(Net):
    def grid(self, height: int, width: int) -> torch.Tensor:
        if (height, width) not in self.made:
            self.made[height, width] = ramp(height, width)
        return self.made[height, width]


class OfItsFile(Net):
    def grid(self, height: int, width: int) -> torch.Tensor:
        rows = TABLE.setdefault(height, [])
        if not rows:
            rows.append(ramp(height, width))
        return rows[0]


class OfDefaults(Net):
    def grid(self, height: int, width: int) -> torch.Tensor:
        return of_defaults(height, width)


class OfAHelper(Net):
    def grid(self, height: int, width: int) -> torch.Tensor:
        return GRIDS.of(height, width)


class TheLastOfTheClass(Net):
    def grid(self, height: int, width: int) -> torch.Tensor:
        kind = type(self)
        if kind.last is None or kind.last.shape != (height, width):
            kind.last = ramp(height, width)
        return kind.last


class TheLastOfTheFile(Net):
    def grid(self, height: int, width: int) -> torch.Tensor:
        global LAST
        if LAST is None or LAST.shape != (height, width):
            LAST = ramp(height, width)
        return LAST


class OfATable(Net):
    """On the module itself, which is an alias while it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.grids: dict[Any, Any] = {}

    def grid(self, height: int, width: int) -> torch.Tensor:
        if (height, width) not in self.grids:
            self.grids[height, width] = ramp(height, width)
        return self.grids[height, width]


KINDS = [
    OfAMethod, OfAWrappedMethod, OfAFunction, WithoutGradients, WithoutBound, OfItsClass, OfItsFile, OfDefaults,
    OfAHelper, TheLastOfTheClass, TheLastOfTheFile, OfATable,
]  # fmt: skip


@pytest.fixture(autouse=True)
def _empty() -> None:
    global LAST
    LAST = None
    TheLastOfTheClass.last = None
    LOADED.clear()
    for cache in (of_a_function, without_bound, library):
        cache.cache_clear()
    for table in (TABLE, Net.made, GRIDS.made, _KNOWN):
        table.clear()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_caches_runs_and_is_read_again_after_it_was_read(kind: type[Net]) -> None:
    model = kind().eval()
    x = torch.rand(2, 3, 16, 16)
    first, second = find_sites(model, input_size=16), find_sites(model, input_size=16)
    assert [site.block for site in first] == [site.block for site in second] == [""]
    assert not first.recorded
    outputs = model(x)
    assert type(outputs) is torch.Tensor
    # What the caller's own run has put there is a fact of that size.
    patched = inject(model, "eca", init="identity", input_size=16).eval()
    assert torch.equal(patched(x), outputs)
    assert torch.equal(attach(model, "eca", init="identity", input_size=16).eval()(x), outputs)
    assert torch.equal(model(x), outputs)
    assert model(torch.rand(1, 3, 24, 24)).shape == (1, 8, 24, 24)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_shapes_alone_leaves_no_shapes(kind: type[Net]) -> None:
    model = kind().eval()
    assert run_on_meta(kind().to("meta").eval(), Inputs((torch.empty(1, 3, 16, 16, device="meta"),))).is_meta
    assert count(model, (torch.empty(1, 3, 16, 16),)).total.macs > 0
    assert not model(torch.rand(1, 3, 16, 16)).is_meta


def test_a_cache_holds_no_alias_of_the_model() -> None:
    model = OfAMethod().eval()
    before = OfAMethod.grid.cache_info().currsize
    find_sites(model, input_size=16)
    assert OfAMethod.grid.cache_info().currsize <= before


def test_what_is_nothing_of_the_pass_stays() -> None:
    of_a_function(3, 3)
    TABLE["mine"] = kept = torch.ones(2)
    model = WithoutBound().eval()
    find_sites(model, input_size=16)
    find_sites(OfItsFile().eval(), input_size=16)
    model(torch.rand(1, 3, 16, 16))
    assert LOADED == ["once"]
    assert of_a_function.cache_info().currsize == 1
    assert TABLE["mine"] is kept


def test_a_cache_that_fails_half_way_is_emptied_too() -> None:
    class Failing(Net):
        def grid(self, height: int, width: int) -> torch.Tensor:
            if isinstance(of_a_function(height, width), torch.Tensor) and height != 16:
                raise ValueError("only 16")
            return of_a_function(height, width)

    model = Failing().eval()
    assert len(find_sites(model, input_size=16)) == 1
    assert type(of_a_function(16, 16)) is torch.Tensor


def test_reach_follows_closures_helpers_and_files_but_not_torch() -> None:
    found = Reach(OfAWrappedMethod())
    assert [cache.__wrapped__ for cache in found.caches] == [OfAWrappedMethod.grid.__wrapped__]
    assert any(table is GRIDS.made for table in Reach(OfAHelper()).tables)
    assert any(table is TABLE for table in Reach(OfItsFile()).tables)
    assert not any(kind.__module__.startswith("torch") for kind in found.classes)
    assert Reach(nn.Sequential(nn.Conv2d(3, 3, 1))).names == []


def test_reach_keeps_no_model_alive() -> None:
    model = OfAMethod().eval()
    find_sites(model, input_size=16)
    gone = weakref.ref(model)
    del model
    assert gone() is None
