"""Rows made by a Ray cluster: a task for each, which Ray places, and starts again where a worker was lost."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import AttnInjectError, first_line
from .rows import Row
from .work import Wish, Work, make_row_at_home

RAY_NEEDS = "sweeping on a Ray cluster needs the package ray: pip install 'attn-inject[ray]'"


def on_cluster(wishes: Sequence[Wish], work: Work, address: str) -> Iterator[tuple[Wish, Row]]:
    """Every wish with its row, as they are done. attn-inject must be installed where the workers run.

    `address` is one that `ray.init` takes: `auto`, `host:port`, `ray://host:port`, or `local` for a cluster of this
    machine's own. A task takes one processor, and with `device="cuda"` one GPU.

    Raises:
        AttnInjectError: Ray is not installed, or no cluster answers.

    """
    try:
        import ray
    except ImportError as error:
        raise AttnInjectError(RAY_NEEDS) from error
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise AttnInjectError(f"no Ray cluster answers at {address}: {first_line(error)}") from error
    task = ray.remote(make_row_at_home).options(num_cpus=1, num_gpus=int(work.settings.device == "cuda"))
    waiting = {}
    try:
        shared = ray.put(work)
        waiting = {task.remote(wish, shared): wish for wish in wishes}
        while waiting:
            for done in ray.wait(list(waiting), num_returns=1)[0]:
                wish = waiting.pop(done)
                yield wish, _row(done, wish)
    finally:
        for each in waiting:
            ray.cancel(each, force=True)
        if ours:
            ray.shutdown()


def _row(done: Any, wish: Wish) -> Row:
    import ray

    try:
        made: Row = ray.get(done)
    except ray.exceptions.RayError as error:
        return wish.row(error=f"{type(error).__name__}: {first_line(error)}")
    return made
