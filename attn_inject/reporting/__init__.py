"""What attention costs, for people and for programs.

* `gathering`, `speed`, `diff`: two models become a `Report`. `comparison`: many reports become a `Comparison`.
* `data`: the `Report` and its parts; `schema` documents what its `to_json` writes.
* `console`, `markdown`, `html`, `plot`: the views. They show a report and compute nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .data import Convention, Report, Units

__all__ = ["report"]


def report(
    original: nn.Module,
    patched: nn.Module,
    *,
    input_size: Sequence[int] | None = None,
    convention: Convention = "all",
    units: Units = "decimal",
    bench: bool = True,
    bench_seconds: float = 3.0,
    device: str | torch.device = "auto",
    dtype: torch.dtype | str | None = None,
    batch: int | None = None,
    channels_last: bool = False,
    compile: bool = False,
    training: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> Report:
    """Say what `patched` costs over `original`: parameters, arithmetic, memory and speed, per site and in total.

    Counts are for one image of `input_size` (channels, *spatial; by default what the model was patched or made for)
    in inference, on the meta device. `convention` is `all` (every arithmetic operation counts) or `paper`
    (convolutions and linears only); `units` says whether M and G are decimal or binary. Neither model is changed,
    moved or trained.

    With `bench`, copies of both run in turns on `device` (`auto`, `cuda`, `cpu`) for at most `bench_seconds` each task:
    inference, and with `training` the training step. `batch` is by default 32 on CUDA and 1 on a CPU, 2 there with
    `training`. `dtype` (such as "bfloat16") and `channels_last` convert the copies, `compile` compiles them. `progress`
    is called with a text and the share that is done.

    Raises `TraceError` for a model that cannot be counted without real data, `AttnInjectError` for settings that make
    no sense here.
    """
    from ..cost.latency import Settings
    from .gathering import check, gather

    check(convention=convention, units=units, bench_seconds=bench_seconds, batch=batch)
    settings = Settings(str(device), _dtype(dtype), batch, channels_last, compile, training, bench_seconds)
    return gather(
        original,
        patched,
        input_size=input_size,
        convention=convention,
        units=units,
        speed=settings if bench else None,
        progress=progress,
    )


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    import torch

    from ..errors import AttnInjectError

    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(dtype, dtype), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise AttnInjectError(f"{dtype!r} is not a floating-point type; use float32, bfloat16 or float16")
    return found
