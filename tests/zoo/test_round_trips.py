"""Exports of small networks, of some in three precisions: the weights in the file to the bit, and what it computes.

`.pt` and `.safetensors` of the same are in `tests/saving/test_roundtrip.py`, with the ordinary tests; that the larger
networks of a family go through the exporters is in `test_deployment.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ..by_hand import by_hand
from ..saving.nets import DTYPES, NETWORKS, assert_export_holds, patched

pytestmark = pytest.mark.zoo


# An exporter takes as long for each precision again, and what it does with one is a matter of operations, not networks.
IN_HALF = ("cifar:resnet20", "cifar:preactresnet20", "timm:resnet10t")
EXPORTED = (*IN_HALF, "torchvision:mobilenet_v3_small", "torchvision:squeezenet1_1", "timm:test_resnet")
CASES = [(name, dtype) for name in EXPORTED for dtype in (DTYPES if name in IN_HALF else DTYPES[:1])]


def _is_left_out(case: tuple[str, torch.dtype]) -> bool:
    return case[0] == "cifar:preactresnet20" and case[1] is not torch.float32


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize(("name", "dtype"), by_hand(CASES, _is_left_out), ids=str)
def test_exports_hold_the_weights_and_compute_the_same(
    name: str, dtype: torch.dtype, suffix: str, tmp_path: Path
) -> None:
    attention, size = NETWORKS[name]
    assert_export_holds(patched(name, attention, input_size=size).to(dtype), size, tmp_path / f"m{suffix}")
