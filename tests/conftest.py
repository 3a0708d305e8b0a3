"""How the test processes are set up, before any of them imports torch."""

from __future__ import annotations

import gc
import os

# Workers that each take all cores stand in each other's way: on two cores the suite takes twice as long.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: looking through them for garbage again and again takes seconds."""
    gc.collect()
    gc.freeze()
