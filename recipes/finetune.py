"""Fine-tune a network with new attention: the attention first, the rest as it was, then everything.

    python finetune.py resnet18 --attention eca --pretrained --data photos --out run
    torchrun --nproc-per-node 2 finetune.py resnet18 ... --out run                   # DistributedDataParallel
    torchrun --nproc-per-node 2 finetune.py resnet18 ... --out run --strategy fsdp   # fully_shard

One file, to copy and change. Attention starts as the identity (`init="identity"`), so the network is at first what it
was. Every epoch ends with a checkpoint in `--out`; the same call goes on from the last whole one, with any number of
processes. At the end `--out` holds `model.pt`, which `attn_inject.load` reads, and the history of the epochs, and what
attention did and cost is printed.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.progress import track
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_checkpoint
from torch.distributed.checkpoint.state_dict_saver import save as save_checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset, random_split

import attn_inject
from attn_inject import Source
from attn_inject.zoo.building import build
from attn_inject.zoo.parsing import parse_source

Data = Dataset[tuple[torch.Tensor, int]]


class Strategy(StrEnum):
    """How several processes share the work: each has the whole network, or a part of every weight."""

    ddp = "ddp"
    fsdp = "fsdp"


@dataclass(frozen=True)
class Phase:
    """Some epochs, in which the attention alone learns (and a new classifier), or everything."""

    name: str
    epochs: int


@dataclass(frozen=True)
class World:
    """The processes that train together; one, without `torchrun`."""

    rank: int
    size: int
    device: torch.device

    def say(self, text: Any) -> None:
        if self.rank == 0:
            Console().print(text, soft_wrap=isinstance(text, str))

    def steps(self, batches: Iterable[Any], text: str) -> Iterable[Any]:
        return track(batches, text, transient=True, disable=self.rank != 0)

    def mean(self, sums: torch.Tensor) -> list[float]:
        """The first numbers over the last, each summed over the processes."""
        if self.size > 1:
            distributed.all_reduce(sums)
        return [float(x) for x in sums[:-1] / sums[-1]]


@contextmanager
def world() -> Iterator[World]:
    """Join the processes that `torchrun` started, each with a device of its own."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size > 1:
        distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield World(rank, size, device)
    finally:
        if size > 1:
            distributed.destroy_process_group()


# Data: (training, validation, classes).


def data_of(text: str, size: int) -> tuple[Data, Data, int]:
    """`digits` (scikit-learn's), `synthetic`, or a folder with a subfolder of images for each class."""
    if text == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
        images = F.interpolate(images, (size, size)).expand(-1, 3, -1, -1)
        return *_split(TensorDataset(images, torch.from_numpy(digits.target))), 10
    if text == "synthetic":
        # The brighter half tells the class.
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(256, 3, size, size, generator=generator)
        labels = torch.arange(256) % 2
        images[labels == 1, :, : size // 2] += 0.5
        images[labels == 0, :, size // 2 :] += 0.5
        return *_split(TensorDataset(images, labels)), 2
    return _folder(Path(text), size)


def _folder(folder: Path, size: int) -> tuple[Data, Data, int]:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    if not folder.is_dir():
        raise typer.BadParameter(f"{folder} is no folder with a subfolder for each class (nor digits, nor synthetic)")
    end = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    training = v2.Compose([v2.RandomResizedCrop(size, scale=(0.35, 1.0)), v2.RandomHorizontalFlip(), *end])
    validation = v2.Compose([v2.Resize(size * 8 // 7), v2.CenterCrop(size), *end])
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        both = ImageFolder(folder / "train", training), ImageFolder(folder / "val", validation)
        return *both, len(both[0].classes)
    # One folder: the same images stay aside in every run.
    own, aside = _split(ImageFolder(folder, training))[0], _split(ImageFolder(folder, validation))[1]
    return own, aside, len(ImageFolder(folder).classes)


def _split(data: Any) -> tuple[Any, Any]:
    return tuple(random_split(data, [0.8, 0.2], generator=torch.Generator().manual_seed(0)))  # type: ignore[return-value]


# The model.


def with_classes(model: Any, source: Source, classes: int) -> tuple[set[str], Source | None]:
    """Give the network a new classifier if it has another number of classes.

    The names of the new parameters, and where such a network comes from: of your own code nobody knows.
    """
    layers = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not layers or layers[-1][1].out_features == classes:
        return set(), source
    path, old = layers[-1]
    model.set_submodule(path, nn.Linear(old.in_features, classes, bias=old.bias is not None))
    if hasattr(model, "num_classes"):
        model.num_classes = classes
    names = {f"{path}.{name}" for name, _ in model.get_submodule(path).named_parameters()}
    if source.kind not in ("timm", "torchvision", "cifar"):
        return names, None
    # torchvision's Inception networks with weights of its own prepare their input.
    args = {"num_classes": classes} | ({"transform_input": True} if getattr(model, "transform_input", False) else {})
    return names, replace(source, pretrained=False, checkpoint=None, args={**source.args, **args})


def cut_up(model: Any, here: World) -> None:
    """Give each process a part of every weight, gathered block by block."""
    mesh = init_device_mesh(here.device.type, (here.size,))
    for path in sorted({insertion.site.block for insertion in model.injection.plan.insertions} - {""}):
        fully_shard(model.get_submodule(path), mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def same_buffers(model: nn.Module, here: World) -> None:
    """Let all processes have the statistics of the first."""
    if here.size > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


# Training.


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


@dataclass
class Training:
    """One network in training, its averaged weights, and the history of its epochs: what a checkpoint keeps."""

    model: nn.Module
    average: AveragedModel
    out: Path
    history: list[dict[str, Any]]

    def last_checkpoint(self) -> Path | None:
        """The last that was written whole: its list of contents comes last."""
        return max(self._whole(), default=None, key=_number)

    def save(self, optimizer: torch.optim.Optimizer, rank: int) -> None:
        """Write what the processes hold, each its own; keep two."""
        save_checkpoint(
            self._state(optimizer), checkpoint_id=self.out / f"epoch-{len(self.history)}", no_dist=_is_alone()
        )
        if rank == 0:
            for old in sorted(self._whole(), key=_number)[:-2]:
                shutil.rmtree(old)

    def restore(self, folder: Path, optimizer: torch.optim.Optimizer | None) -> None:
        """Load a checkpoint; without an optimizer, where another phase begins."""
        state = self._state(optimizer)
        load_checkpoint(state, checkpoint_id=folder, no_dist=_is_alone())
        set_model_state_dict(self.model, state["model"])
        set_model_state_dict(self.average.module, state["average"])
        self.average.n_averaged.copy_(state["averaged"])
        self.history[:] = json.loads(state["history"])
        if optimizer is not None:
            set_optimizer_state_dict(self.model, optimizer, state["optimizer"])

    def _state(self, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
        state: dict[str, Any] = {
            "model": get_model_state_dict(self.model),
            "average": get_model_state_dict(self.average.module),
            "averaged": self.average.n_averaged,
            "history": json.dumps(self.history),
        }
        return state if optimizer is None else {**state, "optimizer": get_optimizer_state_dict(self.model, optimizer)}

    def _whole(self) -> list[Path]:
        return [folder for folder in self.out.glob("epoch-*") if (folder / ".metadata").is_file()]


def _is_alone() -> bool:
    return not distributed.is_initialized()


def _number(folder: Path) -> int:
    return int(folder.name.partition("-")[2])


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
        if batch % here.size or len(own) < batch:  # type: ignore[arg-type]
            raise typer.BadParameter(f"--batch {batch} is to be a multiple of {here.size}, and at most {len(own)}")  # type: ignore[arg-type]
        sampler: DistributedSampler[Any] = DistributedSampler(own, here.size, here.rank, seed=seed, drop_last=True)
        loader = DataLoader(own, batch // here.size, sampler=sampler, num_workers=workers, drop_last=True)
        # A last image or two may count twice, so that all processes run as often.
        held: DistributedSampler[Any] = DistributedSampler(aside, here.size, here.rank, shuffle=False)
        judged = DataLoader(aside, batch // here.size, sampler=held, num_workers=workers)

        try:
            source = parse_source(model, pretrained=pretrained, checkpoint=checkpoint, seed=seed)
            plain = build(source)
            torch.manual_seed(seed)
            head, whole = with_classes(plain, source, classes)
            patched = attn_inject.attach(plain, attention, init="identity", input_size=size, source=whole)
        except attn_inject.AttnInjectError as error:
            raise typer.BadParameter(str(error)) from error
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
        done = 0 if last is None else _number(last)
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
                sampler.set_epoch(epoch)
                # Dropout and augmentation, the same again after a restart.
                torch.manual_seed((seed * 10007 + epoch) * 10007 + here.rank)
                for step, (images, labels) in enumerate(here.steps(loader, f"epoch {epoch + 1}")):
                    part = (epoch - first + step / len(loader)) / phase.epochs
                    for group, rate in zip(optimizer.param_groups, highest, strict=True):
                        group["lr"] = rate * (1 + math.cos(math.pi * part)) / 2
                    with torch.autocast(here.device.type, torch.bfloat16, enabled=amp):
                        loss = F.cross_entropy(net.train()(images.to(here.device)), labels.to(here.device))
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    average.update_parameters(patched)
                same_buffers(patched, here)
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
