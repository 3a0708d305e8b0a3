"""The helper can fail."""

from __future__ import annotations

import pytest
import torch

from attn_inject import inject

from . import toys
from .before_after import check_surgery

SIZE = (3, 16, 16)


def _pair(**options: object) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    model = toys.Toy(toys.Block(toys.SPELLINGS["+="]))
    return model, inject(model, "se", reduction=4, input_size=SIZE, **options)


def test_a_sound_surgery_passes() -> None:
    model, patched = _pair(init="identity")
    check_surgery(model, patched, blocks=["body"], inputs=(torch.randn(2, *SIZE),), same_output=True)


@pytest.mark.parametrize("harm", ["wrong block", "copied weight", "other output", "statistics"])
def test_a_harmed_one_does_not(harm: str) -> None:
    model, patched = _pair(init="paper" if harm == "other output" else "identity")
    blocks = ["elsewhere"] if harm == "wrong block" else ["body"]
    if harm == "copied weight":
        patched.head.weight.data = patched.head.weight.data.clone()
    if harm == "statistics":
        patched.body.bn1.momentum = 0.5
    with pytest.raises(AssertionError):
        check_surgery(model, patched, blocks=blocks, inputs=(torch.randn(2, *SIZE),), same_output=True)
