"""What a report should count and measure, as one frozen value. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from ..errors import AttnInjectError, must_be_number, must_be_whole, nearest

Convention = Literal["all", "paper"]
Units = Literal["decimal", "binary"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportSettings:
    """The settings of `report`, by the names that they have there.

    Attributes:
        convention: `all` (every arithmetic operation counts) or `paper` (convolutions and linears only).
        units: whether M and G are decimal or binary.
        bench: whether to measure speed. bench_seconds: for at most so many seconds each task.
        device: `auto`, `cuda` or `cpu`. dtype: such as `bfloat16`. batch: images at once.
        channels_last: measure in that memory format. compile: measure under `torch.compile`.
        training: measure the training step beside inference.
        threads: how many threads torch uses on the CPU while it is measured; as many as it does by default.

    Raises:
        AttnInjectError: settings that make no sense.

    """

    convention: Convention = "all"
    units: Units = "decimal"
    bench: bool = True
    bench_seconds: float = 3.0
    device: str = "auto"
    dtype: str | None = None
    batch: int | None = None
    channels_last: bool = False
    compile: bool = False
    training: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense, before anything is counted."""
        if self.convention not in get_args(Convention):
            raise AttnInjectError(f"unknown convention {self.convention!r}; use 'all' or 'paper'")
        if self.units not in get_args(Units):
            raise AttnInjectError(f"unknown units {self.units!r}; use 'decimal' or 'binary'")
        must_be_number("bench_seconds", self.bench_seconds)
        for name in ("batch", "threads"):
            if getattr(self, name) is not None:
                must_be_whole(name, getattr(self, name))
        if self.training and not self.bench:
            raise AttnInjectError("training measures a step, which bench=False leaves out; give one of them")


def settings_of(settings: ReportSettings | None, **others: Any) -> ReportSettings:
    """`settings` (by default those of `report`) with some changed, each by its name.

    Raises:
        AttnInjectError: there is no such setting, or settings that make no sense.

    """
    known = [item.name for item in fields(ReportSettings)]
    for name in others:
        if name not in known:
            hint = nearest(name, known)
            raise AttnInjectError(f"there is no setting {name!r}{hint}; settings are {', '.join(known)}")
    return replace(settings or ReportSettings(), **others)
