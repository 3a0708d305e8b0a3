"""The names of all models that can be asked for by name, without importing a zoo when the cache is warm."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Callable
from typing import NamedTuple

from ..errors import resembling
from ..files.cache import cached


class ModelName(NamedTuple):
    """One model of a zoo: `task` is what the zoo files it under, `text` how to ask for it in the shortest way."""

    zoo: str
    name: str
    task: str
    text: str


def models(pattern: str = "") -> list[ModelName]:
    """The models whose name matches `pattern`: a glob if it has `*`, `?` or `[`, else a part of the name, or a zoo."""
    glob = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    first = torchvision_names()
    found = [ModelName("torchvision", name, task, name) for name, task in first.items()]
    found += [
        ModelName("timm", name, "classification", f"timm:{name}" if name in first else name) for name in timm_names()
    ]
    found += [ModelName("cifar", name, "classification", f"cifar:{name}") for name in cifar_names()]
    return [
        m
        for m in found
        if m.zoo == pattern or fnmatch.fnmatchcase(m.name, glob) or fnmatch.fnmatchcase(f"{m.zoo}:{m.name}", pattern)
    ]


def torchvision_names() -> dict[str, str]:
    """torchvision's registered builders, name to task."""
    return cached("torchvision-models", ("torchvision",), _list_torchvision)


def timm_names() -> list[str]:
    """timm's architectures, without the tags of their weights."""
    return cached("timm-models", ("timm",), _list_timm)["architectures"]


def timm_tagged_names() -> list[str]:
    """timm's pretrained weights as `architecture.tag`."""
    return cached("timm-models", ("timm",), _list_timm)["tagged"]


def cifar_names() -> list[str]:
    """The CIFAR networks of attn-inject's own factory."""
    return cached("cifar-models", (), _list_cifar)


def is_torchvision(name: str) -> bool:
    """Whether torchvision builds `name`; a model registered in this process counts."""
    if name in torchvision_names():
        return True
    if "torchvision" not in sys.modules:
        return False
    from torchvision.models import list_models

    return name in list_models()


def is_timm(name: str) -> bool:
    """Whether timm builds `name`, with or without a tag; a model registered in this process counts."""
    if name in (timm_tagged_names() if "." in name else timm_names()):
        return True
    if "timm" not in sys.modules:
        return False
    import timm

    return name in timm.list_models(name) or name in timm.list_pretrained(name)


def alike(name: str, zoo: str | None = None) -> list[str]:
    """Up to five names that resemble `name`, best first: of one zoo, or of all as they are to be typed."""
    typed = {model.name: model.text for model in reversed(models()) if zoo in (None, model.zoo)}
    close = resembling(name.lower(), typed, count=5)
    return [match if zoo else typed[match] for match in close]


def _list_torchvision() -> dict[str, str]:
    from torchvision import models as zoo

    tasks = {
        "classification": zoo,
        "quantization": zoo.quantization,
        "segmentation": zoo.segmentation,
        "detection": zoo.detection,
        "video": zoo.video,
        "optical flow": zoo.optical_flow,
    }
    return {
        name: task
        for task, module in tasks.items()
        for name in zoo.list_models(module=module)
        if _is_from("torchvision", zoo.get_model_builder(name))
    }


def _list_timm() -> dict[str, list[str]]:
    import timm

    own = [name for name in timm.list_models() if _is_from("timm", timm.model_entrypoint(name))]
    return {"architectures": own, "tagged": [tag for tag in timm.list_pretrained() if tag.partition(".")[0] in own]}


def _is_from(library: str, builder: Callable[..., object]) -> bool:
    """Whether a builder is the library's own: what a caller registered is there in this process only."""
    return builder.__module__.partition(".")[0] == library


def _list_cifar() -> list[str]:
    from . import cifar

    return sorted(cifar.models())
