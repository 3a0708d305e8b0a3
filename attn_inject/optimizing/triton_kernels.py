"""The CUDA kernels of `gate_kernel`, in Triton. Imported only where there is a GPU (or Triton's interpreter).

Sums and gates are computed in float32 whatever the dtype of the maps.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

# What a program's tiles hold, chosen for maps of 10^5 to 10^9 elements and gates of 64 to 2048 channels.
_MAP_BLOCK = 1024
_CHANNELS, _HIDDEN, _INPUTS = 64, 32, 64
# Of many images a program takes as many as a tensor core's tile has rows, so that all of them share what it reads.
_ROWS, _CHANNELS_OF_MANY = 16, 128


@triton.jit  # type: ignore[untyped-decorator]
def _open(logits, scale, HARD: tl.constexpr):  # type: ignore[no-untyped-def]
    if HARD:
        weights = tl.minimum(tl.maximum(logits / 6.0 + 0.5, 0.0), 1.0)
    else:
        weights = 1.0 / (1.0 + tl.exp(-logits))
    return weights * scale


@triton.jit  # type: ignore[untyped-decorator]
def _gate_add_kernel(  # type: ignore[no-untyped-def]
    branch, logits, shortcut, scale,
    CHANNELS: tl.constexpr, POSITIONS: tl.constexpr, TILES: tl.constexpr,
    HARD: tl.constexpr, RELU: tl.constexpr, LAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # Image by image along one axis, since the others of a grid end at 65,535 programs. Sizes are constants, so that the
    # divisions are multiplications.
    program = tl.program_id(0)
    place = program % TILES * BLOCK + tl.arange(0, BLOCK)
    image = (program // TILES).to(tl.int64)
    inside = place < CHANNELS * POSITIONS
    if LAST:
        channel = place % CHANNELS
    else:
        channel = place // POSITIONS
    at = image * (CHANNELS * POSITIONS) + place
    owner = image * CHANNELS + channel
    weights = _open(tl.load(logits + owner, mask=inside, other=0.0).to(tl.float32), scale, HARD)
    x = tl.load(branch + at, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(shortcut + at, mask=inside, other=0.0).to(tl.float32)
    out = x * weights + y
    if RELU:
        # Not `maximum`, which drops NaN where torch keeps it.
        out = tl.where(out < 0.0, 0.0, out)
    tl.store(branch + at, out.to(branch.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _two_layers_kernel(  # type: ignore[no-untyped-def]
    pooled, w1, b1, w2, b2, out, inputs, hidden, channels,
    SILU: tl.constexpr, BIAS1: tl.constexpr, BIAS2: tl.constexpr,
    BC: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    total = tl.zeros((BC,), dtype=tl.float32)
    for first in range(0, hidden, BH):
        h = first + tl.arange(0, BH)
        inner = tl.zeros((BH,), dtype=tl.float32)
        if BIAS1:
            inner += tl.load(b1 + h, mask=h < hidden, other=0.0).to(tl.float32)
        for start in range(0, inputs, BK):
            k = start + tl.arange(0, BK)
            x = tl.load(pooled + row * inputs + k, mask=k < inputs, other=0.0).to(tl.float32)
            tile = tl.load(
                w1 + h[:, None] * inputs + k[None, :], mask=(h < hidden)[:, None] & (k < inputs)[None, :], other=0.0
            ).to(tl.float32)
            inner += tl.sum(tile * x[None, :], axis=1)
        if SILU:
            inner = inner / (1.0 + tl.exp(-inner))
        else:
            inner = tl.where(inner < 0.0, 0.0, inner)
        tile = tl.load(
            w2 + c[:, None] * hidden + h[None, :], mask=(c < channels)[:, None] & (h < hidden)[None, :], other=0.0
        ).to(tl.float32)
        total += tl.sum(tile * tl.where(h < hidden, inner, 0.0)[None, :], axis=1)
    if BIAS2:
        total += tl.load(b2 + c, mask=c < channels, other=0.0).to(tl.float32)
    tl.store(out + row * channels + c, total.to(out.dtype.element_ty), mask=c < channels)


@triton.jit  # type: ignore[untyped-decorator]
def _two_layers_of_many_kernel(  # type: ignore[no-untyped-def]
    pooled, w1, b1, w2, b2, out, rows, inputs, hidden, channels,
    SILU: tl.constexpr, BIAS1: tl.constexpr, BIAS2: tl.constexpr, PRECISION: tl.constexpr,
    BR: tl.constexpr, BC: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * BR + tl.arange(0, BR)).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    total = tl.zeros((BR, BC), dtype=tl.float32)
    for first in range(0, hidden, BH):
        h = first + tl.arange(0, BH)
        inner = tl.zeros((BR, BH), dtype=tl.float32)
        for start in range(0, inputs, BK):
            k = start + tl.arange(0, BK)
            x = tl.load(
                pooled + row[:, None] * inputs + k[None, :],
                mask=(row < rows)[:, None] & (k < inputs)[None, :],
                other=0.0,
            ).to(tl.float32)
            tile = tl.load(
                w1 + h[None, :] * inputs + k[:, None], mask=(h < hidden)[None, :] & (k < inputs)[:, None], other=0.0
            ).to(tl.float32)
            inner += tl.dot(x, tile, input_precision=PRECISION)
        if BIAS1:
            inner += tl.load(b1 + h, mask=h < hidden, other=0.0).to(tl.float32)[None, :]
        if SILU:
            inner = inner / (1.0 + tl.exp(-inner))
        else:
            inner = tl.where(inner < 0.0, 0.0, inner)
        tile = tl.load(
            w2 + c[None, :] * hidden + h[:, None], mask=(c < channels)[None, :] & (h < hidden)[:, None], other=0.0
        ).to(tl.float32)
        # Weights beyond the last hidden unit are zero, but zero times an infinite input is not.
        total += tl.dot(tl.where((h < hidden)[None, :], inner, 0.0), tile, input_precision=PRECISION)
    if BIAS2:
        total += tl.load(b2 + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
    inside = (row < rows)[:, None] & (c < channels)[None, :]
    tl.store(out + row[:, None] * channels + c[None, :], total.to(out.dtype.element_ty), mask=inside)


def gate_add(
    branch: torch.Tensor,
    logits: torch.Tensor,
    shortcut: torch.Tensor,
    *,
    hard: bool,
    scale: float,
    relu: bool,
    channels_last: bool,
) -> torch.Tensor:
    """branch <- act(branch * scale sigma(logits) + shortcut); maps of one dense layout, logits (N, C) contiguous."""
    images, channels = branch.shape[:2]
    positions = branch.shape[2:].numel()
    tiles = triton.cdiv(channels * positions, _MAP_BLOCK)
    _gate_add_kernel[(images * tiles,)](
        branch, logits, shortcut, scale,
        CHANNELS=channels, POSITIONS=positions, TILES=tiles,
        HARD=hard, RELU=relu, LAST=channels_last, BLOCK=_MAP_BLOCK,
    )  # fmt: skip
    return branch


def two_layers(
    pooled: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor | None,
    w2: torch.Tensor,
    b2: torch.Tensor | None,
    *,
    silu: bool,
) -> torch.Tensor:
    """W2 act(W1 y + b1) + b2. Shapes: (N, I), (H, I), (H,), (C, H), (C,) -> (N, C), all contiguous."""
    rows, inputs = pooled.shape
    channels, hidden = w2.shape
    out = torch.empty(rows, channels, dtype=pooled.dtype, device=pooled.device)
    arguments = (pooled, w1, w1 if b1 is None else b1, w2, w2 if b2 is None else b2, out)
    biases = {"SILU": silu, "BIAS1": b1 is not None, "BIAS2": b2 is not None}
    if rows < _ROWS:
        _two_layers_kernel[(rows, triton.cdiv(channels, _CHANNELS))](
            *arguments, inputs, hidden, channels, **biases, BC=_CHANNELS, BH=_HIDDEN, BK=_INPUTS
        )
    else:
        # TF32 holds all that a half type can say; float32 is not to lose digits that its user did not give up.
        precision = "ieee" if pooled.dtype is torch.float32 else "tf32"
        _two_layers_of_many_kernel[(triton.cdiv(rows, _ROWS), triton.cdiv(channels, _CHANNELS_OF_MANY))](
            *arguments, rows, inputs, hidden, channels, **biases, PRECISION=precision,
            BR=_ROWS, BC=_CHANNELS_OF_MANY, BH=_HIDDEN, BK=_INPUTS,
        )  # fmt: skip
    return out
