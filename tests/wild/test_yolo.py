"""A YOLO from ultralytics' yaml, whole: attached, trained by its own loss, predicted, saved, loaded, exported.

The package is for tests alone: its licence is not ours.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from attn_inject import attach

from ..whole import Use, check_whole

pytestmark = pytest.mark.wild

SIDE, CLASSES = 64, 3


def _batch() -> dict[str, torch.Tensor]:
    """Two images with three things in them, as ultralytics' loaders give them."""
    return {
        "img": torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)),
        "batch_idx": torch.tensor([0.0, 0.0, 1.0]),
        "cls": torch.tensor([[0.0], [1.0], [2.0]]),
        "bboxes": torch.tensor([[0.3, 0.3, 0.4, 0.4], [0.6, 0.6, 0.3, 0.5], [0.5, 0.5, 0.6, 0.4]]),
    }


def test_a_yolo(tmp_path: Path) -> None:
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    settings = pytest.importorskip("ultralytics.cfg").get_cfg()

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model: nn.Module = tasks.DetectionModel("yolov8n.yaml", ch=3, nc=CLASSES, verbose=False)
        # What its trainer gives it, and its loss reads.
        model.args = settings
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
        return model.eval()

    use = Use(build, _batch()["img"], lambda model: list(model.loss(_batch())[0]))
    attached = attach(build(0), "se", reduction=4, init="identity", input_size=SIDE, copy=True)
    check_whole(use, attached, tmp_path)
