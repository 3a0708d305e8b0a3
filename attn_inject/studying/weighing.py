"""What sites cost and are worth, and the best set of them: one choice under way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from ..cost.samples import Latency
from ..errors import AttnInjectError
from ..tracing.inputs import tensors_in
from ..tracing.parts import full_path
from ..types import Plan
from .budget import Budget
from .candidates import Candidate, chosen_of, hull, limits_of, plan_with, together
from .choice import Basis
from .effects import Differences
from .finished import Finished
from .prices import latency_of, measured, plain_price, prices, race
from .quiet import evaluated, run, undrawn
from .study import Progress, placed
from .trained import Outcome, Training


class Weighing:
    """One choice under way: the candidates with what they cost and are worth, and what is trained already."""

    def __init__(
        self,
        training: Training,
        plans: Mapping[str, Plan],
        finished: Finished,
        budget: Budget,
        seeds: int,
        tell: Progress,
    ) -> None:
        self.candidates: list[Candidate] = []
        self.notes: list[str] = []
        self.basis: Basis = ""
        self._training, self._plans, self._finished = training, plans, finished
        self._budget, self._seeds, self._tell = budget, seeds, tell
        self._inputs = training.portions.trained[0].inputs.on_meta().with_batch(1)
        self._model = training.model
        self._must_know_the_classes()
        self.plain = plain_price(self._model, self._inputs)
        # The plain model, and for each seed each attention everywhere and the sets that are compared.
        self._expected, self._done = 1 + seeds * (len(plans) + 5), 0

    def _must_know_the_classes(self) -> None:
        """Refuse a folder whose classes may be other than those that the model was trained on."""
        portions = self._training.portions
        if portions.classes is None:
            return
        with evaluated(self._model):
            (batch,) = placed(portions.trained[:1], self._model)
            outputs = next(tensors_in(run(self._model, batch)))
        if outputs.dim() != 2 or outputs.shape[1] != portions.classes:
            raise AttnInjectError(
                f"{portions.name} has {portions.classes} classes, and the model gives {tuple(outputs.shape[1:])} for "
                "each: nobody knows which is which; give a folder of its classes, or data as file.py:factory"
            )

    def price(self, seconds: float) -> None:
        """Fill `candidates` with what they cost."""
        for label, plan in self._plans.items():
            with self._patched(plan) as patched:
                modules = [full_path(plan.scope or "", insertion.module) for insertion in plan.insertions]
                found = prices(patched, modules, self.plain, self._inputs)
            if "latency" in self._budget.resources:
                latency = self._raced(plan, seconds)
                if latency is not None and latency.resolved:
                    found = measured(found, latency)
                self._note_basis(label, latency)
            self.candidates += [Candidate(i, label, p) for i, p in zip(plan.insertions, found, strict=True)]

    def weigh(self) -> None:
        """Train each attention at all sites, and add what the sites are worth."""
        weighed: list[Candidate] = []
        for label in self._plans:
            everywhere = [each for each in self.candidates if each.label == label]
            outcomes = [self.judge(everywhere, seed, worth=True) for seed in range(self._seeds)]
            for index, each in enumerate(everywhere):
                seeds = [Differences(*outcome.worth[index]) for outcome in outcomes]
                weighed.append(
                    replace(each, worth=hull(seeds, len(self.candidates)), by_seed=tuple(seed.mean for seed in seeds))
                )
        self.candidates = weighed

    def choose(self, seconds: float, *, mixed: bool) -> tuple[list[Candidate], bool, Latency | None]:
        """(the best set, whether that is proven, its race): where a race shows that it is beyond the budget, all
        latencies grow by what they were too small, and it is chosen anew, among fewer sets.
        """
        latency = None
        while True:
            chosen, exact = chosen_of(self.candidates, self._budget, self.plain, mixed=mixed)
            if not chosen or "latency" not in self._budget.resources:
                return chosen, exact, None
            latency = self._raced(plan_with(self._plans, chosen), seconds)
            told = together(each.price for each in chosen).latency
            if latency is None or not latency.resolved or told <= 0:
                return chosen, exact, latency
            most = dict(zip(self._budget.resources, limits_of(self._budget, self.plain), strict=True))["latency"]
            if latency.ratio - 1 <= most:
                return chosen, exact, latency
            factor = (latency.ratio - 1) / told
            self.candidates = [
                replace(each, price=replace(each.price, latency=each.price.latency * factor))
                for each in self.candidates
            ]

    def judge(self, chosen: Sequence[Candidate], seed: int, *, worth: bool = False) -> Outcome:
        """How a set does, trained from a seed, or as it was found when that was done before."""
        plan = plan_with(self._plans, chosen)
        seed = seed if chosen else 0  # there is nothing to draw
        words = [f"{each.insertion.module}={each.label}" for each in chosen]
        self._done += 1

        def train() -> Outcome:
            done = min(self._done, self._expected) - 1
            what = f"seed {seed + 1} of {self._seeds}, {len(chosen)} sites"
            return self._training.outcome(
                plan, seed, worth=worth, tell=lambda share: self._tell(what, (done + share) / self._expected)
            )

        return self._finished.outcome(f"seed {seed}: {' '.join(words)}", train, worth=worth)

    def _raced(self, plan: Plan, seconds: float) -> Latency | None:
        if seconds <= 0:
            return None
        inputs = self._training.portions.trained[0].inputs.on_meta()
        name = (
            f"race of {seconds:g} s: {' '.join(f'{i.module}={i.attention}{dict(i.options)}' for i in plan.insertions)}"
        )

        def run() -> dict[str, float]:
            device = next((p.device.type for p in self._model.parameters()), "cpu")
            with self._patched(plan) as patched:
                return race(self._model, patched, inputs, device, seconds, self._tell)

        return latency_of(self._finished.numbers(name, run))

    def _note_basis(self, label: str, latency: Latency | None) -> None:
        if latency is not None and latency.resolved:
            self.basis = self.basis or "measured"
            return
        self.basis = "traffic"
        why = "was not measured"
        if latency is not None:
            busy = ", while other work kept the machine busy" if latency.contended else ""
            why = f"was not resolved (between {latency.low:.3f} and {latency.high:.3f}{busy})"
        self.notes.append(f"the latency of {label} at all sites {why}: bytes read and written stand in for it")

    @contextmanager
    def _patched(self, plan: Plan) -> Iterator[nn.Module]:
        with undrawn(self._model):
            yield self._training.patched(plan)
