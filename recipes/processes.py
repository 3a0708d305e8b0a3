"""The processes that train one network together: who they are, what each has of it, and of a batch."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, DistributedSampler


class Strategy(StrEnum):
    """How several processes share the work: each has the whole network, or a part of every weight."""

    ddp = "ddp"
    fsdp = "fsdp"


@dataclass(frozen=True)
class World:
    """The processes that train together; one, without `torchrun`."""

    rank: int
    size: int
    device: torch.device

    def say(self, text: Any) -> None:
        if self.rank == 0:
            Console().print(text, soft_wrap=isinstance(text, str))

    def steps(self, batches: Iterable[Any], text: str) -> Iterable[Any]:
        return track(batches, text, transient=True, disable=self.rank != 0 or not sys.stdout.isatty())

    def mean(self, sums: torch.Tensor) -> list[float]:
        """The first numbers over the last, each summed over the processes."""
        if self.size > 1:
            distributed.all_reduce(sums)
        return [float(x) for x in sums[:-1] / sums[-1]]


@contextmanager
def world() -> Iterator[World]:
    """Join the processes that `torchrun` started, each with a device of its own."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size > 1:
        distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield World(rank, size, device)
    finally:
        if size > 1:
            distributed.destroy_process_group()


def all_have_come(here: World) -> None:
    """Wait until every process is here, with all that was exchanged before.

    A process that ends while a thread of gloo still holds a tensor of the last exchange is ended by an abort
    (https://github.com/pytorch/pytorch/pull/179291), and takes the others with it.
    """
    if here.size > 1:
        distributed.barrier()


def cut_up(model: Any, here: World) -> None:
    """Give each process a part of every weight, gathered block by block."""
    mesh = init_device_mesh(here.device.type, (here.size,))
    for path in sorted({insertion.site.block for insertion in model.injection.plan.insertions} - {""}):
        fully_shard(model.get_submodule(path), mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def same_buffers(model: nn.Module, here: World) -> None:
    """Let all processes have the statistics of the first."""
    if here.size > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


def loaders(
    own: Any, aside: Any, batch: int, seed: int, workers: int, here: World
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Each process has its share of a batch; together they see what one process would."""
    if not len(aside):
        raise typer.BadParameter("these are too few images to keep some aside")
    if batch % here.size or len(own) < batch:
        raise typer.BadParameter(f"--batch {batch} is to be a multiple of {here.size}, and at most {len(own)}")
    shares: DistributedSampler[Any] = DistributedSampler(own, here.size, here.rank, seed=seed, drop_last=True)
    # A last image or two may count twice, so that all processes run as often.
    rest: DistributedSampler[Any] = DistributedSampler(aside, here.size, here.rank, shuffle=False)
    return (
        DataLoader(own, batch // here.size, sampler=shares, num_workers=workers, drop_last=True),
        DataLoader(aside, batch // here.size, sampler=rest, num_workers=workers),
    )
