"""A process that makes rows: reads what is asked for on its standard input, writes rows to its standard output.

Both are pickles from and to the one process that started it, in a format of nobody else's. What the models and train
functions print goes to stderr. When whoever started it has gone, it ends at once, whatever it is doing.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
from typing import BinaryIO


def serve(threads: int | None) -> None:
    """Make rows until None is asked for, with that many threads of torch's at most."""
    # Ctrl-C reaches all processes of a terminal; the one that started this ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked, answers = _take_over_the_pipes()
    wanted: queue.SimpleQueue[object] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(asked, wanted), daemon=True).start()
    import torch

    from .work import make_row_at_home

    if threads is not None:
        torch.set_num_threads(min(threads, torch.get_num_threads()))
    while (item := wanted.get()) is not None:
        pickle.dump(make_row_at_home(*item), answers)  # type: ignore[misc]  # a pair, as `processes` sends it
        answers.flush()


def _listen(asked: BinaryIO, wanted: queue.SimpleQueue[object]) -> None:
    while True:
        try:
            item = pickle.load(asked)
        except (EOFError, pickle.UnpicklingError):
            os._exit(1)
        wanted.put(item)
        if item is None:
            return


def _take_over_the_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output for us alone: the code that runs here gets an empty one, and stderr."""
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return asked, answers
