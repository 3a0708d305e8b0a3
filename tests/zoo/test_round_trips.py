"""Exports of ten networks in three precisions: the weights in the file to the bit, and what the file computes.

`.pt` and `.safetensors` of the same are in `tests/saving/test_roundtrip.py`, with the ordinary tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ..saving.nets import DTYPES, NETWORKS, assert_export_holds, patched

pytestmark = pytest.mark.zoo


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_exports_hold_the_weights_and_compute_the_same(
    name: str, dtype: torch.dtype, suffix: str, tmp_path: Path
) -> None:
    attention, size = NETWORKS[name]
    assert_export_holds(patched(name, attention, input_size=size).to(dtype), size, tmp_path / f"m{suffix}")
