"""`gates()`, and the `Gates` it gives: what trained attention does, and every way to show it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..studying.data import GatesData
from .folding import folding_to_dict
from .pages import Page
from .study_schema import GATES_FORMAT, GATES_VERSION

if TYPE_CHECKING:
    import torch
    from rich.console import Console, ConsoleOptions, RenderResult
    from torch import nn


def gates(
    patched: nn.Module,
    data: Iterable[Any],
    *,
    loss: Callable[[Any, torch.Tensor], torch.Tensor] | None = None,
    ablation: bool = True,
    batches: int | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Gates:
    """Say what the gates of a trained model do on some data, and what the network loses without that.

    One pass over the data, in constant memory, gives the weights of every site and channel: mean, spread over images,
    channels stuck near zero or at the upper end, and with classes how much of the spread is between them (as Figures 5
    and 6 of the SE paper show it, https://arxiv.org/abs/1709.01507). A second pass runs every batch once for each
    change of a site: its weights frozen to their means, and its attention taken out. What a network was trained with
    is missed when it is taken out, whether it ever helped or not; what *moving* gates are worth is what is lost when
    they are frozen. The model is run where it is, in eval mode, and is afterwards as it was.

    >>> import torch
    >>> from attn_inject import gates, inject
    >>> from attn_inject.zoo.cifar import models
    >>> patched = inject(models()["resnet20"](), "se", init="identity", stages=0)
    >>> data = [torch.randn(4, 3, 32, 32) for _ in range(2)]
    >>> found = gates(patched, data)
    >>> [(row.block, row.weight, row.verdict(found.measure)) for row in found.sites]
    [('layer1.0', 1.0, 'constant'), ('layer1.1', 1.0, 'constant'), ('layer1.2', 1.0, 'constant')]

    Args:
        patched: what `inject`, `attach` or `load` gave.
        data: batches: tensors (N, ...), or tuples and dicts whose first value is the input and whose second the target
            (class numbers (N,), or tensors of the outputs' shape). Of a generator, which can be gone through only once,
            up to 32 MiB are kept for the second pass.
        loss: (outputs, targets) -> (N,), one value for each image; without, the accuracy for classes, the mean square
            for targets of the outputs' shape, and the relative change of the outputs where there are no targets.
        ablation: whether to make the second pass, which runs the model twice for every site.
        batches: how many batches to take; all if None.
        progress: called with a text and the share that is done.

    Raises:
        PlanError: `patched` holds no attention.
        AttnInjectError: data without batches, or on which the model does not run; targets that are no classes of it.

    """
    from ..studying.study import study

    data_of = study(patched, data, loss=loss, ablation=ablation, batches=batches, progress=progress)
    return Gates(**{item.name: getattr(data_of, item.name) for item in fields(data_of)})


@dataclass(frozen=True, slots=True)
class Gates(Page, GatesData):
    """What the gates of a model do on some data, and what the network loses without that.

    Its fields are those of `GatesData`. It prints itself in a terminal and shows itself in a notebook.
    """

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, as `reporting.study_schema` documents them."""
        data = asdict(self)
        for row, site in zip(data["sites"], self.sites, strict=True):
            row["verdict"] = site.verdict(self.measure)
        data["folding"] = None if self.folding is None else folding_to_dict(self.folding)
        return {"format": GATES_FORMAT, "version": GATES_VERSION, **data}

    def to_json(self, *, indent: int | None = None) -> str:
        """`to_dict` as JSON text (no NaN, no infinity in it)."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def _page(self) -> str:
        from .views.gates_html import to_html

        return to_html(self)

    def plot(self, path: str | Path) -> None:
        """Draw the charts into a file; its ending (.png, .svg, .pdf) picks the format."""
        from .views.gates_plot import save_plot

        save_plot(self, path)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from .views.gates_text import render

        yield from render(self, width=options.max_width)

    def __str__(self) -> str:
        from .views.gates_text import to_text

        return to_text(self)
