"""Fine-tune a network with new attention: the attention first, the rest as it was, then everything.

    python finetune.py resnet18 --attention eca --pretrained --data photos --out run
    torchrun --nproc-per-node 2 finetune.py resnet18 ... --out run                   # DistributedDataParallel
    torchrun --nproc-per-node 2 finetune.py resnet18 ... --out run --strategy fsdp   # fully_shard

To run as it is, or to copy and change. Attention starts as the identity, so the network is at first what it was. Every
epoch ends with a checkpoint in `--out`; the same call goes on from the last whole one, with any number of
processes. At the end `--out` holds `model.pt`, which `attn_inject.load` reads, and the history of the epochs, and what
attention did and cost is printed.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import attn_inject
from attn_inject.recipes.images import data_of
from attn_inject.recipes.keeping import Training, number, same_run
from attn_inject.recipes.network import described, network, scores
from attn_inject.recipes.processes import Strategy, World, all_have_come, cut_up, loaders, same_buffers, world


@dataclass(frozen=True)
class Phase:
    """Some epochs, in which the attention alone learns (and a new classifier), or everything."""

    name: str
    epochs: int


def set_phase(model: nn.Module, phase: Phase, head: set[str]) -> None:
    """Let the attention and what is named in `head` learn, or everything; frozen norms keep their statistics."""
    alone = phase.name == "attention"
    attn_inject.freeze_original(model, statistics=alone)
    for name, parameter in model.named_parameters():
        if not alone or name in head:
            parameter.requires_grad = True


def optimizer_of(model: nn.Module, lr: float, attention_lr: float, decay: float) -> torch.optim.Optimizer:
    """AdamW with a learning rate for the attention and one for the rest; gains and biases do not decay."""
    new = {id(parameter) for parameter in attn_inject.attention_parameters(model)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            rate = attention_lr if id(parameter) in new else lr
            groups.setdefault((rate, decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]
    )


def validated(model: nn.Module, loader: Iterable[Any], here: World) -> dict[str, float]:
    """Loss and accuracy on images that were kept aside."""
    model.eval()
    sums = torch.zeros(3, device=here.device)
    with torch.no_grad():
        for images, targets in loader:
            outputs, labels = model(images.to(here.device)).float(), targets.to(here.device)
            right = (outputs.argmax(1) == labels).sum()
            lost = F.cross_entropy(outputs, labels, reduction="sum")
            sums += torch.stack([lost, right, torch.full_like(right, len(labels))])
    return dict(zip(("loss", "accuracy"), here.mean(sums), strict=True))


def averaging(decay: float) -> Any:
    """The exponential moving average, which at first follows faster, as few steps have little to average."""

    def follow(averaged: Any, current: Any, count: torch.Tensor) -> None:
        steps = float(count)
        get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(averaged, current, count)  # type: ignore[no-untyped-call]

    return follow


def finetune(
    model: Annotated[str, typer.Argument(help="As attn-inject takes it: resnet18, timm:resnet50, my_net.py:build.")],
    attention: Annotated[str, typer.Option("--attention", "-a", help="Such as eca, or se:reduction=8.")] = "eca",
    data: Annotated[str, typer.Option(help="A folder of images, digits, or synthetic.")] = "synthetic",
    out: Annotated[Path, typer.Option(help="Where checkpoints and the trained model go.")] = Path("finetuned"),
    checkpoint: Annotated[str | None, typer.Option(help="A file of the network's weights.")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Start from the zoo's weights.")] = False,
    size: Annotated[int, typer.Option(help="Height and width of the images.")] = 224,
    attention_epochs: Annotated[int, typer.Option(help="Epochs in which the attention alone learns.")] = 2,
    epochs: Annotated[int, typer.Option(help="Epochs in which everything learns.")] = 8,
    batch: Annotated[int, typer.Option(help="Images in a step, of all processes together.")] = 64,
    lr: Annotated[float, typer.Option(help="Highest learning rate of the network.")] = 1e-4,
    attention_lr: Annotated[float, typer.Option(help="Highest learning rate of the attention.")] = 1e-3,
    decay: Annotated[float, typer.Option(help="Weight decay.")] = 0.01,
    ema: Annotated[float, typer.Option(help="How much of the averaged weights stays at each step.")] = 0.99,
    amp: Annotated[bool, typer.Option("--amp", help="Compute in bfloat16 where that is safe.")] = False,
    strategy: Annotated[Strategy, typer.Option(help="How several processes share the work.")] = Strategy.ddp,
    seed: Annotated[int, typer.Option(help="Of the weights and the order of the images.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that read images, for each that trains.")] = 0,
) -> None:
    """Train MODEL with new attention: the attention alone, then everything.

    The averaged weights are what is validated and what is saved.
    """
    with world() as here:
        own, aside, classes = data_of(data, size)
        loader, judged = loaders(own, aside, batch, seed, workers, here)
        plain, patched, head = network(
            model, attention, size, classes, pretrained=pretrained, checkpoint=checkpoint, seed=seed
        )
        settings = {
            "model": model, "attention": attention, "data": data, "checkpoint": checkpoint, "pretrained": pretrained,
            "size": size, "attention_epochs": attention_epochs, "epochs": epochs, "batch": batch, "lr": lr,
            "attention_lr": attention_lr, "decay": decay, "ema": ema, "amp": amp, "seed": seed,
        }  # fmt: skip
        same_run(out, settings, here)
        for line in described(patched, head):
            here.say(line)
        trained = copy.deepcopy(patched)  # what is saved in the end, whole and on this machine
        patched = patched.to(here.device)
        if here.size > 1 and here.device.type == "cuda":
            patched = nn.SyncBatchNorm.convert_sync_batchnorm(patched)  # type: ignore[no-untyped-call]
        average = AveragedModel(patched, multi_avg_fn=averaging(ema), use_buffers=True)
        if strategy == Strategy.fsdp:
            cut_up(patched, here)
            cut_up(average.module, here)

        training = Training(patched, average, out, [])
        last = training.last_checkpoint()
        done = 0 if last is None else number(last)
        begun = 0
        for phase in (Phase("attention", attention_epochs), Phase("everything", epochs)):
            first, begun = begun, begun + phase.epochs
            if done >= begun:
                continue
            set_phase(patched, phase, head)
            optimizer = optimizer_of(patched, lr, attention_lr, decay)
            highest = [group["lr"] for group in optimizer.param_groups]
            if last is not None:
                training.restore(last, optimizer if done > first else None)
                here.say(f"going on after epoch {done}")
                last = None
            alone = here.size == 1 or strategy == Strategy.fsdp
            net = patched if alone else DistributedDataParallel(patched)
            for epoch in range(done, begun):
                loader.sampler.set_epoch(epoch)
                # Dropout and augmentation, the same again after a restart.
                torch.manual_seed((seed * 10007 + epoch) * 10007 + here.rank)
                for step, (images, labels) in enumerate(here.steps(loader, f"epoch {epoch + 1}")):
                    part = (epoch - first + step / len(loader)) / phase.epochs
                    for group, rate in zip(optimizer.param_groups, highest, strict=True):
                        group["lr"] = rate * (1 + math.cos(math.pi * part)) / 2
                    with torch.autocast(here.device.type, torch.bfloat16, enabled=amp):
                        loss = F.cross_entropy(scores(net.train()(images.to(here.device))), labels.to(here.device))
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    average.update_parameters(patched)
                same_buffers(patched, here)
                same_buffers(average, here)
                found = validated(average.module, judged, here)
                training.history.append({"epoch": epoch + 1, "phase": phase.name, **found})
                training.save(optimizer, here.rank)
                here.say("  ".join(f"{name} {_shown(value)}" for name, value in training.history[-1].items()))
            done = begun
        if last is not None:
            training.restore(last, None)
        finish(training, trained, plain, judged, here)


def finish(training: Training, trained: Any, plain: nn.Module, judged: Iterable[Any], here: World) -> None:
    """Write the averaged weights as one file, and say what attention did and what it costs."""
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(training.average.module, options=whole)
    all_have_come(here)
    if here.rank:
        return
    trained.load_state_dict(state)
    attn_inject.save(trained, training.out / "model.pt")
    (training.out / "history.json").write_text(json.dumps(training.history, indent=1) + "\n")
    here.say(attn_inject.gates(trained.eval(), judged))
    here.say(attn_inject.report(plain, trained, bench=False))
    known = trained.injection.plan.source is not None
    how = "load(path)" if known else "load(path, model): it has a new classifier"
    here.say(f"written: {training.out / 'model.pt'}, for attn_inject.{how}")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    typer.run(finetune)
