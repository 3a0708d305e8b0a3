"""How far `choose` is from the best set of sites: all sets trained, on digits, by brute force.

    python -m tests.bench.choosing [--networks 3] [--seeds 3] [--steps 200]

A small residual network of four blocks learns scikit-learn's digits from a third of them. Then all 16 sets of its sites
get SE, the network frozen, each from several seeds, and are judged on the same images; `choose`, which has seen none of
these images when it decides, is given a budget. The regret of a set is its loss less that of the best set within the
budget, which is known in hindsight only. Beside it: the regret of the last sites, of all random sets that fill the
budget (their mean), of all sites, and of none. Prints Markdown. A placebo competes with SE at every site.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import torch
from torch import nn

from attn_inject.cost.device import pick
from attn_inject.studying.answers import Answers
from attn_inject.studying.candidates import plans_of
from attn_inject.studying.choose import study_choice
from attn_inject.studying.portions import portions_of
from attn_inject.studying.trained import Training
from tests.studying.digits import Block, images
from tests.studying.worthy import Placebo

ATTENTION = "se:reduction=4"
LEARNED, BATCH, RATE = 600, 50, 0.01
BUDGETS = {"one site": 1, "two sites": 2, "any": 4}
Data = list[tuple[torch.Tensor, torch.Tensor]]
# Positions of sites.
Sites = tuple[int, ...]


class Four(nn.Module):
    """A stem, four residual blocks on maps of 8x8 down to 2x2, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(8, 8), Block(8, 16), Block(16, 16), Block(16, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))
        return made


def learned(seed: int) -> tuple[nn.Module, Data]:
    """(a network that has learned from some digits, all others in batches)."""
    torch.manual_seed(seed)
    x, y = images()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = x[order], y[order]
    model = Four().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(4):
        for chosen in torch.randperm(LEARNED).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
    rest = zip(x[LEARNED:].split(BATCH), y[LEARNED:].split(BATCH), strict=True)
    return model.eval(), list(rest)


def network() -> nn.Module:
    """The first of them, for the command line."""
    return learned(0)[0]


def unseen() -> Data:
    """What it has not learned from."""
    return learned(0)[1]


def losses_of_all_sets(model: nn.Module, data: Data, seeds: int, steps: int) -> dict[Sites, float]:
    """The judged loss of every set of sites, the mean over seeds."""
    portions = portions_of(data, None, lambda _text, _share: None)
    plans, patched = plans_of(model, {ATTENTION: ATTENTION}, {}, None, portions.trained[0].inputs)
    training = Training(model, patched, portions, Answers(None), steps, RATE)
    plan = plans[ATTENTION]
    found: dict[Sites, float] = {}
    for count in range(len(plan.insertions) + 1):
        for sites in itertools.combinations(range(len(plan.insertions)), count):
            some = replace(plan, insertions=tuple(plan.insertions[index] for index in sites))
            outcomes = [
                training.outcome(some, seed, worth=False, tell=lambda _share: None)
                for seed in range(seeds if sites else 1)
            ]
            found[sites] = mean(loss for outcome in outcomes for loss in outcome.losses)
    return found


@dataclass(frozen=True)
class Found:
    """One network: what every set loses, what was chosen within each budget, and how often the placebo was."""

    losses: dict[Sites, float]
    chosen: dict[str, Sites]
    placebos: int

    def regrets(self, budget: str) -> Iterator[tuple[str, float]]:
        """By way to spend the budget."""
        most, losses = BUDGETS[budget], self.losses
        best = min(loss for sites, loss in losses.items() if len(sites) <= most)
        yield "choose", losses[self.chosen[budget]] - best
        # Without a limit: two of the four, and the last stage, which is one block.
        yield "random", mean(loss for sites, loss in losses.items() if len(sites) == min(most, 2)) - best
        yield "last", losses[(2, 3) if most == 2 else (3,)] - best
        yield "all", losses[0, 1, 2, 3] - best
        yield "none", losses[()] - best


def study(network: int, seeds: int, steps: int) -> Found:
    model, data = learned(network)
    chosen: dict[str, Sites] = {}
    placebos = 0
    with TemporaryDirectory() as folder:
        for budget, most in BUDGETS.items():
            made = study_choice(
                model,
                [ATTENTION, Placebo],
                data,
                budget=f"sites={most}",
                steps=steps,
                seeds=seeds,
                lr=RATE,
                resume=Path(folder, "state.json"),  # what the budgets have in common is trained once
            )
            placebos += sum(site.chosen for site in made.sites if site.attention != ATTENTION)
            sites = [site for site in made.sites if site.attention == ATTENTION]
            chosen[budget] = tuple(index for index, site in enumerate(sites) if site.chosen)
    return Found(losses_of_all_sets(model, data, seeds, steps), chosen, placebos)


def table(found: list[Found]) -> str:
    """A row for each budget: the mean regret of each way over the networks, with the largest of `choose`."""
    lines = [
        "| budget | best | chosen | `choose`, mean | `choose`, most | random | last | all | none |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for budget, most in BUDGETS.items():
        regrets: dict[str, list[float]] = {}
        for each in found:
            for way, regret in each.regrets(budget):
                regrets.setdefault(way, []).append(regret)
        best = [min((loss, sites) for sites, loss in each.losses.items() if len(sites) <= most)[1] for each in found]
        cells = [f"{mean(regrets[way]):.3f}" for way in ("random", "last", "all", "none")]
        shown = (", ".join("".join(str(i + 1) for i in sites) or "–" for sites in some) for some in (
            best, [each.chosen[budget] for each in found]
        ))  # fmt: skip
        lines.append(
            f"| {' | '.join((budget, *shown))} | {mean(regrets['choose']):.3f} | {max(regrets['choose']):.3f} "
            f"| {' | '.join(cells)} |"
        )
    placebos, times = sum(each.placebos for each in found), len(found) * len(BUDGETS)
    none, whole = (mean(each.losses[sites] for each in found) for sites in ((), (0, 1, 2, 3)))
    last = (
        f"Loss without attention {none:.3f}, with it at all sites {whole:.3f}. The placebo competed in {times} choices "
        f"and was chosen {placebos} times."
    )
    return "\n".join([*lines, "", last])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    asked = parser.parse_args()
    print(f"{pick('cpu').name}, torch {torch.__version__}\n")
    print(table([study(network, asked.seeds, asked.steps) for network in range(asked.networks)]))


if __name__ == "__main__":
    main()
