"""What several tests of the zoos read: one sweep."""

from __future__ import annotations

import os
import pickle

import pytest
from filelock import FileLock

from .sweep import Row, sweep


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """One sweep for all workers of a run: whoever is second waits for the first's."""
    folder = tmp_path_factory.getbasetemp()
    made = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "sweep.pickle"
    with FileLock(made.with_suffix(".lock")):
        if not made.exists():
            made.write_bytes(pickle.dumps([row for row in sweep([], os.cpu_count() or 1) if row.is_cnn]))
        found: list[Row] = pickle.loads(made.read_bytes())
    return found
