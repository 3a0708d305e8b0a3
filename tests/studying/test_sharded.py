"""A model that is sharded runs as it is: its gates are told, as before."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from attn_inject import gates, inject
from tests.toys import preactivation


def test_gates_of_a_sharded_model(tmp_path: Path) -> None:
    data = [torch.randn(2, 3, 16, 16) for _ in range(2)]
    patched = inject(preactivation(), "eca", input_size=(3, 16, 16))
    weights = [row.weight for row in gates(patched, data).sites]
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        fully_shard(patched, mesh=init_device_mesh("cpu", (1,)))
        assert [row.weight for row in gates(patched, data).sites] == weights
    finally:
        distributed.destroy_process_group()
    assert weights
