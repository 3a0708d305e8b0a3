"""A sweep on a Ray cluster of this machine, one of whose two workers is killed while it makes a row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from attn_inject import AttnInjectError, sweep
from attn_inject.sweeping.table import SweepTable

from ..sweeping.conftest import NETS

pytestmark = pytest.mark.wild

MODELS = ["nets.py:net", "nets.py:dies_once", "nets.py:wide", "nets.py:broken"]
ASKED = {
    "options": [{"input_size": 16}, {"input_size": 16, "placement": "post"}],
    "latency": False,
    "train": "nets.py:counted",
    "seeds": 2,
}


@pytest.fixture
def address() -> Iterator[str]:
    """Of a cluster with two processors, of which each row takes one."""
    utils = pytest.importorskip("ray.cluster_utils")
    cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield cluster.address
    cluster.shutdown()


def test_a_cluster_gives_the_table_that_this_process_gives(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    made = sweep(MODELS, ["se", "eca"], out="table.parquet", address=address, **ASKED)
    assert Path("died").exists()
    here = sweep(MODELS, ["se", "eca"], processes=0, **ASKED)
    assert [replace(row, seconds=None) for row in made] == [replace(row, seconds=None) for row in here]
    assert len(made) == 16
    assert [row.model for row in made.errors] == ["nets.py:broken"] * 4
    assert SweepTable.read("table.parquet") == made
    assert len(Path("table.parquet.journal").read_text().splitlines()) == 17


def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AttnInjectError, match="no Ray cluster answers at auto: "):
        sweep("resnet18", "se", latency=False, address="auto")
