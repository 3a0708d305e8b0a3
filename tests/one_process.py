"""A process group of this process alone, and its mesh: what `fully_shard` and DistributedDataParallel ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


@contextmanager
def group(folder: Path) -> Iterator[None]:
    """A group of this one process."""
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'group'}", rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def mesh() -> DeviceMesh:
    """Its mesh."""
    return init_device_mesh("cpu", (1,))
