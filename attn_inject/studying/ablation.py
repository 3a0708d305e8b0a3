"""What the network loses when one site's weights are frozen to their means, or its attention is taken out.

Every batch is run once as it is and once for each change, so that the runs see the same images; nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from ..attention.gating import for_each_position
from .effects import Differences
from .feeds import Batch
from .quiet import exchanged, run
from .scoring import Scoring
from .watching import Watched


@dataclass
class Ablated:
    """One site's differences."""

    frozen: Differences = field(default_factory=Differences)
    without: Differences = field(default_factory=Differences)


def ablate(
    model: nn.Module,
    sites: Sequence[Watched],
    batches: Iterable[Batch],
    scoring: Scoring,
    tell: Callable[[int, int], None],
) -> tuple[dict[Watched, Ablated], Differences]:
    """(what each site's changes lose, the untouched model's score), in eval mode; `tell` gets (batches, changes)."""
    found = {site: Ablated() for site in sites if site.has_weights}
    score = Differences()
    for index, batch in enumerate(batches):
        outputs = run(model, batch)
        score.add(scoring.scores(batch, outputs))
        for number, (site, ablated) in enumerate(found.items()):
            tell(index, number)
            changes = [(ablated.frozen, {site.seen: frozen(site)})]
            if site.can_go:
                changes.append((ablated.without, {site.module: torch.clone}))
            for differences, forwards in changes:
                with exchanged(forwards):
                    differences.add(scoring.losses(batch, outputs, run(model, batch)))
    return found, score


def means_of(site: Watched) -> torch.Tensor:
    """(C,), or (M C,) of branches: the mean weight of each channel; one, where nothing but zeros was seen."""
    return torch.where(site.weights.known, site.weights.mean, 1.0)


def frozen(site: Watched) -> Callable[[torch.Tensor], torch.Tensor]:
    """x -> x times the mean weight of each channel; or, for branches, whatever -> their mean weights."""
    means, shares = means_of(site), site.shares
    if shares is not None:
        by_branch = means.view(1, shares.branches, shares.channels)
        return lambda logits: by_branch.to(logits).expand_as(logits)

    def forward(x: torch.Tensor) -> torch.Tensor:
        return x * for_each_position(means.to(x.device)[None], x)

    return forward
