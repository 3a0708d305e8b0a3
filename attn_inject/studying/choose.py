"""Where attention pays within a budget: trained everywhere, taken out site by site, the best set held against others.

Every attention starts as the identity at all sites, the network around it frozen, its statistics too, and is trained
alone. What each site is worth is told by ablation on images that were not trained on; what it costs by counters or
races. The set that is worth most within the budget is then trained anew, beside other ways to spend the same budget,
and judged on images that nothing was chosen by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import AttnInjectError, must_be_number, must_be_path, must_be_whole
from ..files.described import described
from ..tracing.prepare import unwrap
from ..types import Plan
from .answers import Answers, Loss
from .budget import budget_of
from .candidates import AttentionLike, choices_of, competing, plan_with, plans_of
from .choice import Choice
from .compared import rows, ways
from .finished import Finished
from .portions import portions_of, put_into
from .study import Progress
from .trained import Training
from .verdicts import notes_of, plan_notes
from .weighing import Weighing


def choose(
    model: nn.Module,
    attention: AttentionLike | Sequence[AttentionLike],
    data: Iterable[Any],
    loss: Loss | None = None,
    budget: str | Mapping[str, Any] | None = None,
    *,
    steps: int = 300,
    seeds: int = 3,
    lr: float = 0.01,
    batches: int | None = None,
    mixed: bool = True,
    bench_seconds: float = 3.0,
    example_inputs: Any = None,
    resume: str | Path | None = None,
    progress: Progress | None = None,
    **choices: Any,
) -> Plan:
    """The plan with the sites at which attention pays, within a budget; its notes say how sure that is.

    Attention starts as the identity at all sites and is trained there while the network around it stays frozen. A
    site's worth is the loss that its ablation adds, on images that were not trained on; where the interval over images
    holds 0 for any seed, the site does not pay and is not chosen, so that the plan may be empty. The set is trained
    anew and held, on images that were neither trained nor measured on, against no attention, all sites, the last stage,
    every second site and random ones; `studying.choose.study_choice` with the same arguments gives all of that. Of four
    batches two are trained on, one is measured on, one judged by. The model is left as it was.

    An attention that cannot start as the identity by itself is mixed in by a scalar, which is trained with it: what
    that scalar alone makes better counts as the site's worth, even where the attention's own weights learn nothing.

    What attention would be worth if the whole network was trained with it is another question, which this does not
    answer. Data that the network has learned by heart leaves nothing to gain: give it other.

    >>> import torch
    >>> from attn_inject import apply_plan, choose
    >>> from attn_inject.zoo.cifar import models
    >>> model = models()["resnet20"]()
    >>> data = [(torch.randn(8, 3, 16, 16), torch.randint(0, 10, (8,))) for _ in range(4)]
    >>> plan = choose(model, "eca", data, budget="sites=2", steps=2, seeds=1, stages=2)
    >>> plan.insertions, plan.notes[0]
    ((), 'chosen: no site, since 8 images are too few to show that any pays')
    >>> patched = apply_plan(model, plan)

    Args:
        model: without attention of ours.
        attention: what `inject` takes, or several that compete, of which each site gets one at most.
        data: batches of (input, target), gone through once and kept, up to 2 GiB; at least four.
        loss: (outputs, targets) -> a scalar tensor, or one value for each image; without, the cross entropy.
        budget: what all sites together may cost: `latency=1.03` (times the plain model's), `params=+1%`, `flops=+2M`,
            `sites=4`, several with commas or as a mapping; without, all sites that pay.
        steps: of Adam, for each training; the learning rate goes from `lr` to zero along a cosine.
        seeds: how often every set is trained, each time from another start.
        lr: the learning rate of the first step.
        batches: how many batches to take; all if None.
        mixed: whether different sites may get different attentions.
        bench_seconds: how long to measure a latency, where one is limited; with 0, or where it is not resolved, bytes
            read and written stand in for it, which the notes say.
        example_inputs: for models with several inputs; without, the first batch's.
        resume: a file in which finished trainings are kept, and from which an interrupted run goes on.
        progress: called with a text and the share that is done.
        choices: as for `make_plan` (`stages`, `include`, ...); others are the attention's options.

    Raises:
        TraceError, PlanError, AttentionError: as for `make_plan`; a model that holds attention of ours already.
        AttnInjectError: a budget or data that do not do, a loss that is no finite number.
        CheckpointError: `resume` is of another model, data, loss, attention or settings.

    """
    return study_choice(
        model,
        attention,
        data,
        loss,
        budget,
        steps=steps,
        seeds=seeds,
        lr=lr,
        batches=batches,
        mixed=mixed,
        bench_seconds=bench_seconds,
        example_inputs=example_inputs,
        resume=resume,
        progress=progress,
        **choices,
    ).plan


def study_choice(
    model: nn.Module,
    attention: AttentionLike | Sequence[AttentionLike],
    data: Iterable[Any],
    loss: Loss | None = None,
    budget: str | Mapping[str, Any] | None = None,
    *,
    steps: int = 300,
    seeds: int = 3,
    lr: float = 0.01,
    batches: int | None = None,
    mixed: bool = True,
    bench_seconds: float = 3.0,
    example_inputs: Any = None,
    resume: str | Path | None = None,
    progress: Progress | None = None,
    **choices: Any,
) -> Choice:
    """`choose`, with all that it was chosen by; its arguments and errors."""
    for name, value in (("steps", steps), ("seeds", seeds)):
        must_be_whole(name, value)
    must_be_number("lr", lr)
    must_be_number("bench_seconds", bench_seconds, 0)
    limited, named, tell = budget_of(budget), competing(attention), progress or (lambda _text, _share: None)
    for each in named.values():
        choices_of(each, choices).validate()
    model = unwrap(model)
    if any(tensor.is_meta for tensor in model.parameters()):
        raise AttnInjectError("a model on the meta device has no weights: choose needs a real one")
    portions = portions_of(data, batches, tell)
    plans, patched = plans_of(model, named, choices, example_inputs, portions.trained[0].inputs)
    training = Training(model, patched, portions, Answers(loss), steps, lr)
    finished = Finished(
        None if resume is None else must_be_path("resume", resume), _fingerprint(training, plans, named)
    )
    study = Weighing(training, plans, finished, limited, seeds, tell)
    study.price(bench_seconds)
    study.weigh()
    chosen, exact, latency = study.choose(bench_seconds, mixed=mixed)
    judged = tuple(rows(ways(chosen, study.candidates, limited, study.plain, seeds), study.judge, limited, study.plain))
    made = Choice(
        title=_title(model, plans),
        data=portions.name,
        images=portions.images,
        seeds=seeds,
        steps=steps,
        budget=limited.text,
        plan=plan_with(plans, chosen),
        sites=tuple(each.shown(chosen=each in chosen) for each in study.candidates),
        rows=judged,
        plain=study.plain,
        basis=study.basis,
        latency=latency,
    )
    made = replace(made, notes=(*portions.notes, *study.notes, *notes_of(made, exact=exact)))
    return replace(made, plan=replace(made.plan, notes=(*plan_notes(made), *made.plan.notes)))


def _fingerprint(training: Training, plans: Mapping[str, Plan], named: Mapping[str, AttentionLike]) -> str:
    """A digest of all that an outcome hangs on."""
    digest = hashlib.sha256(f"{torch.__version__} {training.steps} {training.rate} {training.answers.name}".encode())
    digest.update(training.answers.described.encode())
    digest.update(training.portions.digest.encode())
    for name, tensor in training.model.state_dict(keep_vars=True).items():
        digest.update(name.encode())
        put_into(digest, tensor)
    for each in named.values():
        digest.update(described(each).encode())
    for label, plan in plans.items():
        digest.update(
            f"{label} {[(i.module, i.attention, sorted(i.options.items())) for i in plan.insertions]}".encode()
        )
    return digest.hexdigest()


def _title(model: nn.Module, plans: Mapping[str, Plan]) -> str:
    source = next(iter(plans.values())).source
    return f"{source if source is not None else type(model).__name__} + {' or '.join(plans)}"
