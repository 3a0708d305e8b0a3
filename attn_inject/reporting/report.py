"""`report()`, and the `Report` it gives: the data, and every way to show it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .data import ReportData
from .pages import Page
from .schema import REPORT_FORMAT, REPORT_VERSION
from .settings import Convention, ReportSettings, Units

if TYPE_CHECKING:
    import torch
    from rich.console import Console, ConsoleOptions, RenderResult
    from torch import nn


def report(
    original: nn.Module,
    patched: nn.Module,
    *,
    input_size: Sequence[int] | None = None,
    example_inputs: Any = None,
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
    threads: int | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Report:
    """Say what `patched` costs over `original`: parameters, arithmetic, memory and speed, per site and in total.

    Counts are for one image of `input_size` (channels, *spatial; by default what the model was patched or made for), or
    one of each of `example_inputs` (as for `inject`; their first extent is the batch), in inference, on the meta
    device; a model whose code decides on data is run on random values instead, which a note says. `convention` is `all`
    (every arithmetic operation counts) or `paper` (convolutions and linears only); `units` says whether M and G are
    decimal or binary. Neither model is changed, moved or trained. Where one submodule was patched (`scope`), the report
    is about that; where several were, about the whole, on the whole's inputs, with the sites of all parts under their
    paths in it.

    With `bench`, copies of both run in turns on `device` (`auto`, `cuda`, `cpu`) for at most `bench_seconds` each task:
    inference, and with `training` the training step. `batch` is by default 32 on CUDA and 1 on a CPU, 2 there with
    `training`. `dtype` (such as "bfloat16") and `channels_last` convert the copies, `compile` compiles them, `threads`
    are torch's on a CPU. A ratio that was not resolved (too few pairs, or an interval that holds 1 or is wider than the
    difference) is shown as its interval alone, with what would resolve it. `progress` is called with a text and the
    share that is done. In the result, sizes are bytes and times are seconds.

    >>> from attn_inject import inject, report
    >>> from attn_inject.zoo.cifar import models
    >>> model = models()["resnet20"]()
    >>> result = report(model, inject(model, "se", reduction=4, input_size=32), bench=False)
    >>> result.total("parameters")
    Quantity(name='parameters', unit='count', before=269722, after=277786)
    >>> [(row.stage, row.sites, row.added.macs) for row in result.stages]
    [(0, 3, 384), (1, 3, 1536), (2, 3, 6144)]

    Raises:
        TraceError: a model that cannot be counted without real data, in another type or on the meta device.
        AttnInjectError: settings that make no sense here.

    """
    settings = ReportSettings(
        convention=convention,
        units=units,
        bench=bench,
        bench_seconds=bench_seconds,
        device=str(device),
        dtype=None if dtype is None else str(dtype).removeprefix("torch."),
        batch=batch,
        channels_last=channels_last,
        compile=compile,
        training=training,
        threads=threads,
    )
    return report_with(
        settings, original, patched, input_size=input_size, example_inputs=example_inputs, progress=progress
    )


def report_with(
    settings: ReportSettings,
    original: nn.Module,
    patched: nn.Module,
    *,
    input_size: Sequence[int] | None = None,
    example_inputs: Any = None,
    progress: Callable[[str, float], None] | None = None,
) -> Report:
    """`report` with its settings as one value."""
    from .gathering import gather

    data = gather(original, patched, settings, input_size=input_size, example_inputs=example_inputs, progress=progress)
    return Report(**{item.name: getattr(data, item.name) for item in fields(data)})


@dataclass(frozen=True, slots=True)
class Report(Page, ReportData):
    """What attention costs a model: per site, per stage and in total, before and after.

    Its fields are those of `ReportData`. A report prints itself in a terminal and shows itself in a notebook.
    """

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, as `reporting.schema` documents them."""
        data = asdict(self)
        for row, quantity in zip(data["totals"], self.totals, strict=True):
            row |= {"difference": quantity.difference, "percent": quantity.percent}
        for row, speed in zip(data["speeds"], self.speeds, strict=True):
            row["resolved"] = speed.resolved
        return {"format": REPORT_FORMAT, "version": REPORT_VERSION, **data}

    def to_json(self, *, indent: int | None = 2) -> str:
        """`to_dict` as JSON text (no NaN, no infinity in it). Options that JSON has no word for become their text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False, default=str)

    def to_markdown(self, *, full: bool = False, diff: bool = False) -> str:
        """Markdown for a paper or a pull request; `full`: every site in a row of its own; `diff`: the changed code."""
        from .views.markdown import to_markdown

        return to_markdown(self, full=full, diff=diff)

    def _page(self) -> str:
        from .views.html import to_html

        return to_html(self)

    def plot(self, path: str | Path) -> None:
        """Draw the charts into a file; its ending (.png, .svg, .pdf) picks the format."""
        from .views.plot import save_plot

        save_plot(self, path)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from .views.console import render

        yield from render(self, width=options.max_width)

    def __str__(self) -> str:
        from .views.console import to_text

        return to_text(self)
