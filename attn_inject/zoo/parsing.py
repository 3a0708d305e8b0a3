"""Text -> `Source`. What is wrong with a name is said before anything is built, and before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import SourceError
from ..types import Source
from . import names

ZOOS = ("torchvision", "timm", "cifar")


def parse_source(
    text: str,
    *,
    model_args: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    checkpoint: str | None = None,
    seed: int | None = None,
) -> Source:
    """Where the model that `text` names comes from.

    `text` is `timm:NAME`, `torchvision:NAME`, `cifar:NAME`, a bare name (torchvision first, then timm),
    `package.module:factory` or `path/to/file.py:factory`. `model_args` are the factory's keyword arguments,
    `pretrained` asks for the zoo's own weights, `checkpoint` is a file of weights, `seed` makes random weights
    repeatable.

    Raises SourceError for a name that no zoo knows (with the nearest ones), a file that is not there, or weights asked
    for where there are none. A user's own file or module is not imported here.
    """
    kind, name = _split(text.strip())
    if pretrained and kind not in ("torchvision", "timm"):
        raise SourceError(f"{text} has no weights to download: --pretrained is for torchvision and timm models")
    if pretrained and checkpoint:
        raise SourceError("--pretrained and --checkpoint both say where the weights come from: give one of them")
    if checkpoint and not Path(checkpoint).is_file():
        raise SourceError(f"there is no file of weights at {checkpoint}")
    if seed is not None and not 0 <= seed < 2**63:
        raise SourceError(f"the seed must be a whole number from 0 and below 2**63, not {seed}")
    return Source(kind, name, dict(model_args or {}), pretrained, checkpoint, seed)


def _split(text: str) -> tuple[str, str]:
    """The kind of source, and its name within the kind."""
    if not text:
        raise SourceError("the model's name is empty")
    head, colon, rest = text.rpartition(":")
    if not colon:
        return _bare(text)
    if head in ZOOS:
        if not _known(head, rest):
            raise SourceError(_unknown(rest, head))
        return head, rest
    if not all(part.isidentifier() for part in rest.split(".")):
        raise SourceError(f"'{rest}' in {text} is not the name of a function: write package.module:factory")
    if head.endswith(".py"):
        if not Path(head).is_file():
            raise SourceError(f"there is no file {head}")
        return "file", text
    if not all(part.isidentifier() for part in head.split(".")):
        raise SourceError(f"'{head}' in {text} is neither a zoo ({', '.join(ZOOS)}), nor a module, nor a .py file")
    return "module", text


def _bare(name: str) -> tuple[str, str]:
    if name.endswith((".onnx", ".pt2")):
        raise SourceError(f"{name} is a file for others to run: name the model that it was made of")
    if name.endswith((".pt", ".pth", ".safetensors")):
        raise SourceError(
            f"{name} is a file: name the model that it is of, as --checkpoint FILE gives it weights; "
            "'attn-inject inspect FILE' says what is in a patched model's"
        )
    if name.endswith(".py"):
        raise SourceError(f"{name} is a file: say which function builds the model, as in {name}:make_model")
    for zoo in ("torchvision", "timm"):
        if _known(zoo, name):
            return zoo, name
    raise SourceError(_unknown(name))


def _known(zoo: str, name: str) -> bool:
    if zoo == "torchvision":
        return names.is_torchvision(name)
    return names.is_timm(name) if zoo == "timm" else name in names.cifar_names()


def _unknown(name: str, zoo: str | None = None) -> str:
    close = names.alike(name, zoo)
    where = zoo or "torchvision nor timm"
    hint = f"the nearest names are {', '.join(close)}" if close else "'attn-inject models' lists all names"
    return f"no model '{name}' in {where}: {hint}" if zoo else f"'{name}' is a model of neither {where}: {hint}"
