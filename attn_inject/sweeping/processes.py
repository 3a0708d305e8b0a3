"""Rows made by processes of this machine, each of which may die without taking more than its own row along.

Every thread of a small pool owns one worker and starts another one when that has died. They are plain child processes
and not `multiprocessing`'s, which import the caller's main module again: a sweep runs as well from a notebook, from
standard input, and from a script without `if __name__ == "__main__"`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from .rows import Row
from .work import Wish, Work

# How often a row is begun whose process dies: the second time it may be alone with the machine's memory.
_ATTEMPTS = 2
_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from attn_inject.sweeping.worker import serve
serve(json.loads(sys.argv[2]))
"""


def cores() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_processes(wishes: Sequence[Wish], work: Work, count: int) -> Iterator[tuple[Wish, Row]]:
    """Every wish with its row, as they are done, from `count` processes that share the processors."""
    crew = _Crew(work, None if count == 1 else max(1, cores() // count))
    with ThreadPoolExecutor(count) as pool:
        try:
            futures = {pool.submit(crew.row, wish): wish for wish in wishes}
            for future in as_completed(futures):
                yield futures[future], future.result()
            crew.dismiss()
        finally:
            # Also when whoever reads this stops: no row is begun any more, and those that are being made end.
            crew.end()
            pool.shutdown(wait=False, cancel_futures=True)


class _Crew:
    """The workers, one for each thread that asks for rows."""

    def __init__(self, work: Work, threads: int | None) -> None:
        self._work, self._threads = work, threads
        self._own = threading.local()
        self._lock = threading.Lock()
        self._all: list[subprocess.Popen[bytes]] = []
        self._ended = False

    def row(self, wish: Wish) -> Row:
        """The row, made by this thread's worker; if that dies more than once, a row that says so."""
        code = 0
        for _ in range(_ATTEMPTS):
            worker = self._worker()
            if worker is None:
                break
            made = _asked(worker, (wish, self._work))
            if made is not None:
                return made
            code = worker.wait()
            self._own.worker = None
        return wish.row(error=f"the process that made it {_end(code)}, {_ATTEMPTS} times")

    def dismiss(self) -> None:
        """Let all workers end by themselves; they have nothing to do."""
        for worker in self._all:
            with contextlib.suppress(OSError):
                assert worker.stdin is not None
                pickle.dump(None, worker.stdin)
                worker.stdin.close()
        for worker in self._all:
            worker.wait()

    def end(self) -> None:
        """End all workers, and start none any more."""
        with self._lock:
            self._ended = True
            for worker in self._all:
                worker.kill()
                worker.wait()

    def _worker(self) -> subprocess.Popen[bytes] | None:
        held: subprocess.Popen[bytes] | None = getattr(self._own, "worker", None)
        if held is not None:
            return held
        with self._lock:
            if self._ended:
                return None
            command = [sys.executable, "-P", "-c", _START, json.dumps(sys.path), json.dumps(self._threads)]
            held = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._all.append(held)
        self._own.worker = held
        return held


def _asked(worker: subprocess.Popen[bytes], item: tuple[Wish, Work]) -> Row | None:
    """What the worker answers; None if it died."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        pickle.dump(item, worker.stdin)
        worker.stdin.flush()
        made = pickle.load(worker.stdout)
    except (EOFError, OSError, ValueError, pickle.UnpicklingError):
        return None
    return made if isinstance(made, Row) else None


def _end(code: int) -> str:
    """How a process ended: `was ended by SIGKILL (was there enough memory?)`."""
    if code >= 0:
        return f"ended with exit code {code}"
    hint = " (was there enough memory?)" if -code == getattr(signal, "SIGKILL", None) else ""
    return f"was ended by {signal.Signals(-code).name}{hint}"
