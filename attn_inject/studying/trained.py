"""One set of sites trained from one seed, the network around it frozen, and how it then does on images kept aside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import nn

from ..errors import AttnInjectError
from ..surgery.parameters import attention_parameters, freeze_original
from ..tracing.alias import copied
from ..tracing.inputs import tensors_in
from ..tracing.parts import full_path
from ..tracing.regions import ordinary_mode
from ..types import Plan
from .answers import Answers
from .effects import Differences
from .feeds import Batch
from .portions import Portions
from .quiet import evaluated, exchanged, run, undrawn
from .study import placed

Patching = Callable[[Plan], nn.Module]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Each judged image's loss, and whether its class was right (empty where there are no classes).

    `worth` has, for each insertion of the plan, what the measured images lose without it: (count, sum, sum of squares);
    it is empty where that was not asked.
    """

    losses: tuple[float, ...]
    right: tuple[float, ...]
    worth: tuple[tuple[int, float, float], ...] = ()


@dataclass(frozen=True)
class Training:
    """How every set is trained: the same batches in the order that the seed draws, the same steps.

    `patched` puts a plan's attention into an alias of `model`.
    """

    model: nn.Module
    patched: Patching
    portions: Portions
    answers: Answers
    steps: int
    rate: float

    @ordinary_mode()
    def outcome(self, plan: Plan, seed: int, *, worth: bool, tell: Callable[[float], None]) -> Outcome:
        """Train the plan's attention, from an identity start, in a copy of the model."""
        with undrawn(self.model, seed):
            if not plan.insertions:
                return self._judged(copied(self.model), ())
            model = freeze_original(copied(self.patched(plan)))
            self._train(model, seed, tell)
            modules = [model.get_submodule(full_path(plan.scope or "", each.module)) for each in plan.insertions]
            return self._judged(model, self._worth(model, modules) if worth else ())

    def _train(self, model: nn.Module, seed: int, tell: Callable[[float], None]) -> None:
        parameters = [parameter for parameter in attention_parameters(model) if parameter.requires_grad]
        if not parameters:
            return
        optimizer = torch.optim.Adam(parameters, lr=self.rate)
        # Large steps first, small ones last, so that where it ends is no matter of the last batch.
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        generator, order = torch.Generator().manual_seed(seed), list[int]()
        model.train()
        for step in range(self.steps):
            order = order or torch.randperm(len(self.portions.trained), generator=generator, device="cpu").tolist()
            (batch,) = placed([self.portions.trained[order.pop()]], model)
            outputs = run(model, batch)
            loss = self.answers.loss(batch, outputs)
            if not isfinite(float(loss.detach())):
                mend = "lower lr" if step else "look at the images, the targets and the weights, or lower lr"
                raise AttnInjectError(f"the loss is no finite number at step {step} of the training: {mend}")
            if not loss.requires_grad:
                if any(tensor.requires_grad for tensor in tensors_in(outputs)):
                    raise AttnInjectError(
                        "the loss has no gradient (an argmax, a detach()), so that nothing can be trained with it: "
                        "give one that has, such as torch.nn.functional.cross_entropy"
                    )
                return  # nothing of the attention takes part in it
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.device("cpu"):  # It counts its steps in a tensor.
                optimizer.step()
            schedule.step()
            tell((step + 1) / self.steps)

    def _judged(self, model: nn.Module, worth: Sequence[Differences]) -> Outcome:
        losses: list[float] = []
        right: list[float] = []
        with evaluated(model):
            for batch in placed(self.portions.judged, model):
                outputs = run(model, batch)
                losses += self.answers.losses(batch, outputs).tolist()
                right += self.answers.right(batch, outputs).tolist()
        sums = tuple((each.count, each.total, each.squares) for each in worth)
        return Outcome(tuple(losses), tuple(right), sums)

    def _worth(self, model: nn.Module, modules: Sequence[nn.Module]) -> list[Differences]:
        """What the images lose without each site: the mean of what goes when it goes from all of them, and what comes
        when it comes to none. The first alone calls a site worthless whose work another one does as well.
        """
        found = [Differences() for _ in modules]
        with evaluated(model):
            for batch in placed(self.portions.measured, model):
                everything, nothing = self._losses(model, batch, ()), self._losses(model, batch, modules)
                for module, differences in zip(modules, found, strict=True):
                    without = self._losses(model, batch, [module])
                    alone = self._losses(model, batch, [other for other in modules if other is not module])
                    differences.add((without - everything + nothing - alone) / 2)
        return found

    def _losses(self, model: nn.Module, batch: Batch, out: Sequence[nn.Module]) -> torch.Tensor:
        """Each image's loss with the attention of some sites taken out."""
        with exchanged(dict.fromkeys(out, torch.clone)):
            outputs: Any = run(model, batch)
        return self.answers.losses(batch, outputs)
