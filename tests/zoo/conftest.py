"""What several tests of the zoos read: one sweep."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from .sweep import Row

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """One sweep for all workers of a run: whoever is second waits for the first's."""
    folder = tmp_path_factory.getbasetemp()
    made = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "sweep.pickle"
    with FileLock(made.with_suffix(".lock")):
        if not made.exists():
            # In processes of its own: those that have run a thousand tests are large, and what they fork is slow.
            ran = subprocess.run(
                [sys.executable, "-m", "tests.zoo.sweep", "--rows", made],
                cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert made.exists(), ran.stderr
        return [Row(*values) for values in pickle.loads(made.read_bytes())]
