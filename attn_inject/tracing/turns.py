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

# Seconds after which work is taken to wait for something that comes after it.
PATIENCE = 120.0
_IN_TURN: set[int] = set()
_Work = Callable[..., Any]


def is_turn_of(owner: int) -> bool:
    """Whether the reader in the thread `owner` reads what this thread does."""
    own = threading.get_ident()
    return own == owner or own in _IN_TURN


@contextmanager
def threads_in_turn(modes: Callable[[], AbstractContextManager[Any]] = nullcontext) -> Iterator[None]:
    """Let work that is given to threads in here be done before whoever gives it goes on, within `modes()`.

    Raises:
        Unfollowable: work that is not done before what comes after it.

    """
    owner = threading.get_ident()
    homes: tuple[tuple[Any, str], ...] = (
        (threading.Thread, "start"), (ThreadPoolExecutor, "submit"), (Pool, "apply_async"), (Pool, "_map_async"),
    )  # fmt: skip
    start, submit, apply, several = kept = [getattr(home, name) for home, name in homes]
    # Whether a pool is given work: it may start threads, which wait for more.
    filling: list[bool] = []

    def is_elsewhere() -> bool:
        return bool(filling) or not is_turn_of(owner)

    def started(thread: threading.Thread) -> None:
        if is_elsewhere() or thread.daemon:
            start(thread)
            return
        turn = _Turn(thread.run, modes, hands_on=False)
        thread.run = turn  # type: ignore[method-assign]
        start(thread)
        thread.join(PATIENCE)
        turn.end(is_done=not thread.is_alive())

    def submitted(pool: ThreadPoolExecutor, work: _Work, /, *args: Any, **kwargs: Any) -> Any:
        if is_elsewhere():
            return submit(pool, work, *args, **kwargs)
        turn = _Turn(work, modes)
        filling.append(True)
        try:
            future = submit(pool, turn, *args, **kwargs)
        finally:
            filling.pop()
        turn.end(is_done=bool(wait([future], PATIENCE).done))
        return future

    def applied(pool: Pool, work: _Work, *args: Any, **kwargs: Any) -> Any:
        if is_elsewhere() or not isinstance(pool, ThreadPool):
            return apply(pool, work, *args, **kwargs)
        turn = _Turn(work, modes)
        return turn.waited_for(apply(pool, turn, *args, **kwargs))

    def mapped(pool: Pool, work: _Work, given: Any, mapper: Any, size: Any = None, *rest: Any) -> Any:
        if is_elsewhere() or not isinstance(pool, ThreadPool):
            return several(pool, work, given, mapper, size, *rest)
        turn, items = _Turn(work, modes), list(given)
        # All in one chunk, which one thread does.
        return turn.waited_for(several(pool, turn, items, mapper, len(items) or 1, *rest))

    for (home, name), other in zip(homes, (started, submitted, applied, mapped), strict=True):
        setattr(home, name, other)
    try:
        yield
    finally:
        for (home, name), function in zip(homes, kept, strict=True):
            setattr(home, name, function)


def refuse_threads(are_unheard: bool) -> None:  # noqa: FBT001
    """Refuse what parts of the model did in threads that nobody follows."""
    if are_unheard:
        raise Unfollowable("other threads run parts of it")


class _Turn:
    """`work`, done in the thread that it was given to; with `hands_on` that tells who asks of errors in it."""

    def __init__(self, work: _Work, modes: Callable[[], AbstractContextManager[Any]], *, hands_on: bool = True) -> None:
        self._work = work
        self._modes = modes
        self._hands_on = hands_on
        self._failed: BaseException | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own = threading.get_ident()
        _IN_TURN.add(own)
        try:
            with self._modes():
                return self._work(*args, **kwargs)
        except BaseException as error:
            if self._hands_on and isinstance(error, Exception):
                raise
            # Threads of pools end at what is no Exception, and nobody would hear of it.
            self._failed = error
        finally:
            _IN_TURN.discard(own)

    def waited_for(self, result: Any) -> Any:
        """What a pool has given, when it is there."""
        result.wait(PATIENCE)
        self.end(is_done=result.ready())
        return result

    def end(self, *, is_done: bool) -> None:
        """Raise what no one else hears of."""
        if self._failed is not None:
            raise self._failed
        if not is_done:
            raise Unfollowable("it starts a thread that waits for what comes after it")
