"""Blocks that a model gives to other threads, and those where its code runs without torch's function modes."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import TraceError, attach, find_sites, inject, report
from attn_inject.cost.counting import count
from attn_inject.cost.kept import kept_for_backward
from attn_inject.tracing import turns
from attn_inject.tracing.inputs import Inputs

from .. import toys

SIZE = (16, 8, 8)
IMAGE = torch.rand(1, *SIZE)
POOL = ThreadPoolExecutor(1)
_Call = Callable[[nn.Module], torch.Tensor]


def executor(call: _Call, blocks: list[nn.Module]) -> list[torch.Tensor]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(call, blocks))


def executor_of_the_file(call: _Call, blocks: list[nn.Module]) -> list[torch.Tensor]:
    futures = [POOL.submit(call, block) for block in blocks]
    return [future.result() for future in futures]


def threads(call: _Call, blocks: list[nn.Module]) -> list[torch.Tensor]:
    found: dict[int, torch.Tensor] = {}

    def work(number: int) -> None:
        found[number] = call(blocks[number])

    each = [threading.Thread(target=work, args=(number,)) for number in range(len(blocks))]
    for thread in each:
        thread.start()
    for thread in each:
        thread.join()
    return [found[number] for number in range(len(blocks))]


def pool_map(call: _Call, blocks: list[nn.Module]) -> list[torch.Tensor]:
    with ThreadPool(2) as pool:
        return pool.map(call, blocks)


def pool_apply(call: _Call, blocks: list[nn.Module]) -> list[torch.Tensor]:
    with ThreadPool(2) as pool:
        return [given.get() for given in [pool.apply_async(call, (block,)) for block in blocks]]


def pool_iterated(call: _Call, blocks: list[nn.Module]) -> list[torch.Tensor]:
    with ThreadPool(2) as pool:
        return list(pool.imap(call, blocks))


def in_turn(call: _Call, blocks: list[nn.Module]) -> list[torch.Tensor]:
    return [call(block) for block in blocks]


def pool_within_a_pool(call: _Call, blocks: list[nn.Module]) -> list[torch.Tensor]:
    def inner(block: nn.Module) -> torch.Tensor:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(call, block).result()

    with ThreadPoolExecutor(1) as pool:
        return [pool.submit(inner, block).result() for block in blocks]


def by_name(call: _Call, blocks: list[nn.Module]) -> list[torch.Tensor]:
    with ThreadPool(1) as pool:
        given = [pool.apply_async(func=call, args=(block,)).get() for block in blocks[:1]]
        return given + pool.map(func=call, iterable=blocks[1:], chunksize=1)


def daemons(call: _Call, blocks: list[nn.Module]) -> list[torch.Tensor]:
    found: dict[int, torch.Tensor] = {}
    each = [
        threading.Thread(target=lambda number=number: found.update({number: call(blocks[number])}), daemon=True)
        for number in range(len(blocks))
    ]
    for thread in (*each, threading.Thread(target=sys.exit)):
        thread.start()
        thread.join()
    return [found[number] for number in range(len(blocks))]


SPREADS = (
    executor, executor_of_the_file, threads, daemons, pool_map, pool_apply, pool_iterated, pool_within_a_pool, by_name,
)  # fmt: skip


class Spread(nn.Module):
    def __init__(self, spread: Any, *, decides: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(toys.Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16)) for _ in range(2))
        self.spread, self.decides = spread, decides

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.decides and x.sum() > 1e9:
            x = x * 2
        first, second = self.spread(lambda block: block(x), list(self.blocks))
        return torch.cat([first, second], 1).relu()


@pytest.mark.parametrize("decides", [False, True])
@pytest.mark.parametrize("spread", SPREADS)
def test_what_other_threads_run_is_read_as_if_it_ran_in_turn(spread: Any, decides: bool) -> None:
    model, x = Spread(spread, decides=decides).eval(), torch.rand(2, *SIZE)
    plain = Spread(in_turn, decides=decides)
    sites = find_sites(model, input_size=SIZE)
    assert list(map(asdict, sites)) == list(map(asdict, find_sites(plain, input_size=SIZE)))
    assert [site.block for site in sites] == ["blocks.0", "blocks.1"]
    attached = attach(model, "se", input_size=SIZE, reduction=4, init="identity").eval()
    assert torch.equal(attached(x), model(x))
    assert toys.gates_run(attached, x) == 2
    if not decides:
        patched = inject(model, "se", input_size=SIZE, reduction=4, init="identity").eval()
        assert torch.equal(patched(x), model(x))
        assert toys.gates_run(patched, x) == 2
        assert patched.injection.not_kept == ("work in other threads: the graph does it in turn",)


ORDERS: queue.SimpleQueue[Any] = queue.SimpleQueue()


def _serve() -> None:
    while True:
        call, block, found = ORDERS.get()
        found.put(call(block))


def older_thread(call: _Call, blocks: list[nn.Module]) -> list[torch.Tensor]:
    found: queue.SimpleQueue[torch.Tensor] = queue.SimpleQueue()
    given = []
    for block in blocks:
        ORDERS.put((call, block, found))
        given.append(found.get(timeout=5))
    return given


@pytest.mark.parametrize("decides", [False, True])
def test_threads_that_nobody_follows_are_refused(decides: bool) -> None:
    threading.Thread(target=_serve, daemon=True).start()
    model = Spread(older_thread, decides=decides)
    with pytest.raises(TraceError, match="control flow" if decides else "other threads run parts of it"):
        find_sites(model, input_size=SIZE)


def test_a_thread_that_waits_for_what_comes_later_is_refused_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.2)
    before = set(threading.enumerate())

    def served(call: _Call, blocks: list[nn.Module]) -> list[torch.Tensor]:
        orders: queue.SimpleQueue[nn.Module | None] = queue.SimpleQueue()
        found: list[torch.Tensor] = []
        thread = threading.Thread(target=lambda: found.extend(call(block) for block in iter(orders.get, None)))
        try:
            thread.start()
        finally:
            for order in (*blocks, None):
                orders.put(order)
        thread.join()
        return found

    with pytest.raises(TraceError, match="starts a thread that waits for what comes after it"):
        find_sites(Spread(served), input_size=SIZE)
    assert not [thread for thread in set(threading.enumerate()) - before if not thread.daemon]


def test_what_other_threads_run_costs_what_it_costs_in_turn() -> None:
    # Behind a stem: what it gives in inference mode is of no use to a thread without.
    spread, plain = (nn.Sequential(toys.conv(16, 16), Spread(way)) for way in (executor, in_turn))
    assert asdict(count(spread, [IMAGE])) == asdict(count(plain, [IMAGE]))
    assert kept_for_backward(spread, Inputs((IMAGE,)), 2) == kept_for_backward(plain, Inputs((IMAGE,)), 2)
    attached = attach(spread, "se", input_size=SIZE, reduction=4)
    with pytest.warns(UserWarning, match=r"timed under torch\.no_grad\(\): .* torch\.inference_mode"):
        told = report(spread, attached, bench_seconds=0.2)
    assert told.total("MACs").before == count(plain, [IMAGE]).total.macs


@pytest.mark.slow
def test_a_daemon_is_let_go_and_other_threads_errors_are_theirs() -> None:
    ended = threading.Event()

    def beside(call: _Call, blocks: list[nn.Module]) -> list[torch.Tensor]:
        threading.Thread(target=ended.wait, daemon=True).start()
        with ThreadPoolExecutor(1) as pool:
            assert isinstance(pool.submit(lambda: 1 // 0).exception(), ZeroDivisionError)
        return in_turn(call, blocks)

    try:
        assert len(find_sites(Spread(beside), input_size=SIZE)) == 2
    finally:
        ended.set()


def test_a_size_decided_on_in_a_thread_keeps_a_block_whole_as_elsewhere() -> None:
    class Even(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = toys.Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.block(x) if x.shape[2] % 2 == 0 else x
            return out

    model = Spread(executor)
    model.blocks = nn.ModuleList([Even(), Even()])
    sites = find_sites(model, input_size=SIZE)
    assert [site.block for site in sites] == ["blocks.0.block", "blocks.1.block"]


class Plain(nn.Module):
    def __init__(self, region: Any) -> None:
        super().__init__()
        self.block = toys.Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))
        self.region = region

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with getattr(torch._C, self.region)():
            out: torch.Tensor = self.block(x)
        return out


@pytest.mark.parametrize("region", ["DisableTorchFunction", "DisableTorchFunctionSubclass"])
def test_where_functions_are_not_overridden_is_recorded(region: str) -> None:
    model, x = Plain(region).eval(), torch.rand(2, *SIZE)
    kept = getattr(torch._C, region)
    assert [site.block for site in find_sites(model, input_size=SIZE)] == ["block"]
    attached = attach(model, "se", input_size=SIZE, reduction=4, init="identity").eval()
    assert torch.equal(attached(x), model(x))
    assert toys.gates_run(attached, x) == 1
    assert getattr(torch._C, region) is kept
