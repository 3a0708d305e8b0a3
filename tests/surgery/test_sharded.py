"""A model that is sharded already: what would read it anew is refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

from attn_inject import (
    AttnInjectError,
    CheckpointError,
    PlanError,
    attach,
    detach,
    find_sites,
    fold,
    inject,
    optimize,
    optimize_training,
    remove,
    report,
    save,
    verify,
)
from tests.one_process import group, mesh
from tests.toys import preactivation

SIZE = (3, 16, 16)
X = torch.randn(2, *SIZE)


@pytest.fixture
def sharded(tmp_path: Path) -> Iterator[Callable[[nn.Module], Any]]:
    """Shards a model over this one process."""
    with group(tmp_path):
        yield lambda model: fully_shard(model, mesh=mesh())


VERBS: dict[str, Callable[[nn.Module], Any]] = {
    "remove": remove,
    "optimize": optimize,
    "optimize_training": optimize_training,
    "verify": lambda patched: verify(preactivation(), patched),
    "fold": lambda patched: fold(patched, [X, X], bench_seconds=0),
    "report": lambda patched: report(preactivation(), patched, bench=False),
}


@pytest.mark.parametrize("verb", VERBS)
def test_what_reads_a_graph_anew_refuses_it(verb: str, sharded: Any) -> None:
    with pytest.raises(PlanError, match=r"the model is sharded \(fully_shard\), .* do this before it is sharded"):
        VERBS[verb](sharded(inject(preactivation(), "eca", input_size=SIZE)))


@pytest.mark.parametrize("verb", ["find_sites", "inject", "attach"])
def test_so_does_what_reads_a_model(verb: str, sharded: Any) -> None:
    make: dict[str, Callable[[nn.Module], Any]] = {
        "find_sites": lambda model: find_sites(model, input_size=SIZE),
        "inject": lambda model: inject(model, "eca", input_size=SIZE),
        "attach": lambda model: attach(model, "eca", input_size=SIZE),
    }
    with pytest.raises(AttnInjectError, match=r"the model is sharded \(fully_shard\)"):
        make[verb](sharded(preactivation()))


def test_its_file_is_refused(sharded: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the model is sharded \(fully_shard\)"):
        save(sharded(inject(preactivation(), "eca", input_size=SIZE)), tmp_path / "net.pt")


def test_what_was_attached_before_it_was_sharded_says_the_same(sharded: Any) -> None:
    with pytest.raises(PlanError, match=r"the model is sharded \(fully_shard\)"):
        detach(sharded(attach(preactivation(), "eca", input_size=SIZE)))
