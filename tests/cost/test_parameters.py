from __future__ import annotations

import torch
from torch import nn

from attn_inject.cost.parameters import holding


def test_a_batch_norm_by_hand() -> None:
    """Weight and bias; running mean, variance and one int64 counter."""
    held = holding(nn.BatchNorm2d(10))
    assert (held.parameters, held.buffers) == (20, 21)
    assert (held.parameter_bytes, held.buffer_bytes, held.file_bytes) == (80, 88, 168)


def test_tied_weights_count_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    held = holding(model)
    assert (held.parameters, held.file_bytes) == (16, 64)


def test_buffers_that_are_not_persistent_are_not_in_a_file() -> None:
    model = nn.Linear(2, 2, bias=False)
    model.register_buffer("scratch", torch.zeros(7), persistent=False)
    held = holding(model)
    assert (held.buffers, held.buffer_bytes, held.file_bytes) == (7, 28, 16)


def test_half_precision_halves_the_bytes() -> None:
    held = holding(nn.Linear(8, 8).half())
    assert (held.parameters, held.parameter_bytes) == (72, 144)
