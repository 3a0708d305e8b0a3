"""Work that a model's code gives to other threads: it is done in turn while the model is read.

Torch's modes hold for one thread, and so does what a reader notes of where it is. Whoever gives work away waits here
until it is done, in the thread that does it, with the reader's modes: what it calls is noted where it was given away,
and in the same order every time. Threads that live on by themselves (daemons) are not the model's and are let go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing.pool import Pool, ThreadPool
from typing import Any

from .proxies import Unfollowable
from .restoring import ALONE

# Seconds after which work is taken to wait for something that comes after it; and a daemon to be nobody's.
PATIENCE, PATIENCE_WITH_DAEMONS = 30.0, 1.0
_IN_TURN: set[int] = set()
_Work = Callable[..., Any]


def is_turn_of(owner: int) -> bool:
    """Whether the reader in the thread `owner` reads what this thread does."""
    own = threading.get_ident()
    return own == owner or own in _IN_TURN


@contextmanager
def threads_in_turn(modes: Callable[[], AbstractContextManager[Any]] = nullcontext) -> Iterator[Turns]:
    """Let work that is given to threads in here be done before whoever gives it goes on, within `modes()`.

    Raises:
        Unfollowable: there was work that was not done before what came after it.

    """
    with ALONE:
        yield from _in_turn(Turns(modes))


def turn_losses(*, in_turn: bool) -> tuple[str, ...]:
    """What a graph has not of threads."""
    return ("work in other threads: the graph does it in turn",) if in_turn else ()


def _in_turn(turns: Turns) -> Iterator[Turns]:
    others: list[tuple[Any, str, Callable[[Any], Any]]] = [
        (threading.Thread, "start", turns.starting),
        (ThreadPoolExecutor, "submit", turns.submitting),
        (Pool, "apply_async", turns.applying),
        (Pool, "_map_async", turns.mapping),
        (Pool, "imap", turns.iterating),
        (Pool, "imap_unordered", turns.iterating),
    ]
    kept = [(home, name, getattr(home, name)) for home, name, _ in others]
    for (home, name, function), (_, _, other) in zip(kept, others, strict=True):
        setattr(home, name, other(function))
    try:
        yield turns
    finally:
        for home, name, function in kept:
            setattr(home, name, function)
    if turns.late:
        raise Unfollowable("it starts a thread that waits for what comes after it")


class Turns:
    """What stands in the places of the functions that give work to threads, each made from the function itself.

    `taken` is whether there was such work, `late` whether it waited for what came after it.
    """

    def __init__(self, modes: Callable[[], AbstractContextManager[Any]]) -> None:
        self.taken = self.late = False
        self._modes = modes
        self._owner = threading.get_ident()

    def _is_elsewhere(self, pool: Any = None) -> bool:
        processes = isinstance(pool, Pool) and not isinstance(pool, ThreadPool)
        return processes or not is_turn_of(self._owner)

    def _patience(self) -> float:
        # Once is enough to know.
        return 0.0 if self.late else PATIENCE

    def _turn(self, work: _Work, *, hands_on: bool = True) -> _Turn:
        self.taken = True
        return _Turn(work, self._modes, hands_on=hands_on)

    def _over(self, turn: _Turn) -> None:
        self.late = not turn.ended() or self.late

    def starting(self, start: _Work) -> _Work:
        def started(thread: threading.Thread) -> None:
            if self._is_elsewhere() or _is_of_a_pool(thread):
                start(thread)
                return
            turn, lives_on = self._turn(thread.run, hands_on=False), thread.daemon
            thread.run = turn  # type: ignore[method-assign]
            # One that is late must not keep the process from ending.
            thread.daemon = True
            start(thread)
            thread.join(PATIENCE_WITH_DAEMONS if lives_on else self._patience())
            if lives_on:
                turn.ended()
            else:
                self._over(turn)

        return started

    def submitting(self, submit: _Work) -> _Work:
        def submitted(pool: ThreadPoolExecutor, work: _Work, /, *args: Any, **kwargs: Any) -> Any:
            if self._is_elsewhere():
                return submit(pool, work, *args, **kwargs)
            turn = self._turn(work)
            future = submit(pool, turn, *args, **kwargs)
            wait([future], self._patience())
            self._over(turn)
            return future

        return submitted

    def applying(self, apply: _Work) -> _Work:
        def applied(pool: Pool, func: _Work, *args: Any, **kwargs: Any) -> Any:
            if self._is_elsewhere(pool):
                return apply(pool, func, *args, **kwargs)
            turn = self._turn(func)
            result = apply(pool, turn, *args, **kwargs)
            result.wait(self._patience())
            self._over(turn)
            return result

        return applied

    def mapping(self, several: _Work) -> _Work:
        def mapped(pool: Pool, func: _Work, iterable: Any, mapper: Any, chunksize: Any = None, *rest: Any) -> Any:
            if self._is_elsewhere(pool):
                return several(pool, func, iterable, mapper, chunksize, *rest)
            turn, items = self._turn(func), list(iterable)
            # All in one chunk, which one thread does.
            result = several(pool, turn, items, mapper, len(items) or 1, *rest)
            result.wait(self._patience())
            self.late = not result.ready() or self.late
            turn.ended()
            return result

        return mapped

    def iterating(self, iterate: _Work) -> _Work:
        def iterated(pool: Pool, func: _Work, iterable: Any, chunksize: int = 1) -> Any:
            elsewhere = self._is_elsewhere(pool)
            return iterate(pool, func, iterable, chunksize) if elsewhere else iter(pool.map(func, iterable))

        return iterated


def _is_of_a_pool(thread: threading.Thread) -> bool:
    """Whether it waits for work as long as its pool is there."""
    target = getattr(thread, "_target", None)
    return getattr(target, "__module__", "") in ("multiprocessing.pool", "concurrent.futures.thread")


class _Turn:
    """`work`, done in the thread that it was given to; with `hands_on` that tells who asks of errors in it."""

    def __init__(self, work: _Work, modes: Callable[[], AbstractContextManager[Any]], *, hands_on: bool) -> None:
        self._work = work
        self._modes = modes
        self._hands_on = hands_on
        self._failed: BaseException | None = None
        self._is_done = False
        self._own = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._own = threading.get_ident()
        _IN_TURN.add(self._own)
        try:
            with self._modes():
                return self._work(*args, **kwargs)
        except SystemExit:
            # Which ends a thread, and no more.
            if self._hands_on:
                raise
        except BaseException as error:
            if self._hands_on and isinstance(error, Exception):
                raise
            # Threads of pools end at what is no Exception, and nobody would hear of it.
            self._failed = error
        finally:
            self._is_done = True
            _IN_TURN.discard(self._own)

    def ended(self) -> bool:
        """Whether the work is done; if not, what it still does is read no more. Raises what no one else hears of."""
        if self._failed is not None:
            raise self._failed
        if not self._is_done:
            _IN_TURN.discard(self._own)
        return self._is_done
