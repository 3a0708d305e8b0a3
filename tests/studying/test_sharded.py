"""A model that is sharded runs as it is: its gates are told, as before."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.distributed.fsdp import fully_shard

from attn_inject import gates, inject
from tests.one_process import group, mesh
from tests.toys import gates_run, preactivation


def test_gates_of_a_sharded_model(tmp_path: Path) -> None:
    data = [torch.randn(2, 3, 16, 16) for _ in range(2)]
    patched = inject(preactivation(), "eca", input_size=(3, 16, 16))
    weights = [row.weight for row in gates(patched, data).sites]
    with group(tmp_path):
        fully_shard(patched, mesh=mesh())
        assert [row.weight for row in gates(patched, data).sites] == weights
        assert gates_run(patched, data[0]) == len(weights) > 0
