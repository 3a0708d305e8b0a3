"""The four readers under test, each with its seeds, its way to change an input, and what may come out of it."""

from __future__ import annotations

import copy
import functools
import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attn_inject import CheckpointError, PlanError, inject, load, save
from attn_inject.errors import SourceError
from attn_inject.planning import recipe
from attn_inject.planning.recipe import parse_recipe
from attn_inject.planning.text import plan_from_json, plan_from_toml, plan_to_json, plan_to_toml
from attn_inject.recipes import FOLDER
from attn_inject.saving.inspection import inspect
from attn_inject.tracing.injected import InjectedModule
from attn_inject.zoo.building import build
from attn_inject.zoo.parsing import parse_source
from attn_inject.zoo.weights import load_weights

from ..toys import Block, Toy, _iadd
from . import mutate

LONGEST = 1_000
# The first byte of an input picks its ending, or its language.
KINDS = {
    "load": (".pt", ".pt2", ".onnx"),
    "safetensors": (".safetensors",),
    "plan": ("json", "toml"),
    "recipe": ("toml",),
}


class Payload:
    """Makes a file when it is unpickled, as an attacker's code would do worse."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@dataclass(frozen=True)
class Target:
    """`check` raises whatever is wrong with an input's treatment, and else gives one word on how it ended."""

    name: str
    seeds: Callable[[Path], list[bytes]]
    change: mutate.Bytes
    check: Callable[[bytes, Path], str]


@functools.cache
def _toy() -> torch.nn.Module:
    return Toy(Block(_iadd, 4, 4), width=4, out=4)


def _refusal(error: Exception) -> str:
    text = str(error)
    assert text, "an error says nothing"
    assert len(text.splitlines()) == 1, f"an error of several lines: {text[:300]!r}"
    assert len(text) <= LONGEST, f"an error of {len(text)} characters: {text[:300]!r}"
    return "refused"


def _file(data: bytes, folder: Path, kinds: tuple[str, ...]) -> str:
    """`load`, `inspect` and `--checkpoint` on one file."""
    path = folder / f"m{kinds[data[0] % len(kinds)] if data else kinds[0]}"
    path.write_bytes(data[1:])
    ended = []
    for read, allowed in (
        (lambda: inspect(path), CheckpointError),
        (
            lambda: load(path, None if b'"kind": "object"' not in data and b'"source"' in data else _toy()),
            CheckpointError,
        ),
        (lambda: load_weights(_toy(), path), SourceError),
    ):
        try:
            read()
            ended.append("read")
        except allowed as error:
            ended.append(_refusal(error))
    return "/".join(ended)


def _plan(data: bytes, folder: Path) -> str:
    toml = bool(data) and data[0] % 2 == 1
    try:
        plan = (plan_from_toml if toml else plan_from_json)(data[1:])
    except PlanError as error:
        return _refusal(error)
    assert plan_from_json(plan_to_json(plan)) == plan, "a plan that was read does not survive being written"
    return "read"


def _recipe(data: bytes, folder: Path) -> str:
    try:
        parse_recipe(data[1:])
    except PlanError as error:
        return _refusal(error)
    return "read"


def _after_kind(change: mutate.Bytes, text: mutate.Bytes | None = None) -> mutate.Bytes:
    """`change` on what follows the first byte; `text` instead where that byte is odd."""

    def changed(data: bytes, chance: random.Random) -> bytes:
        if not data:
            return b"\0"
        use = text if text is not None and data[0] % 2 else change
        try:
            return data[:1] + use(data[1:], chance)
        except Exception:  # An input that was changed before may be of any form.
            return data[:1] + mutate.raw(data[1:], chance)

    return changed


def _saved(folder: Path, suffix: str, model: torch.nn.Module, **options: Any) -> bytes:
    path = folder / f"seed{suffix}"
    save(model, path, **options)
    content = path.read_bytes()
    path.unlink()
    return content


def _models() -> tuple[InjectedModule, ...]:
    """A toy that only its maker has, and a network that a file can name."""
    torch.manual_seed(0)
    source = parse_source("cifar:resnet20", seed=1)
    return (
        inject(copy.deepcopy(_toy()), "se", reduction=2, input_size=(3, 16, 16)).eval(),
        inject(build(source), "eca", source=source, input_size=(3, 32, 32)).eval(),
    )


def _file_seeds(folder: Path) -> list[bytes]:
    toy, named = _models()
    canary = folder / "canary"
    evil = {"attn_inject": "{}", "state_dict": {"a": Payload(canary)}}
    seeds = [b"\0" + _saved(folder, ".pt", toy), b"\0" + _saved(folder, ".pt", toy, attention_only=True)]
    seeds += [b"\0" + _saved(folder, ".pt", named, attention_only=True), b"\0" + _saved(folder, ".pt", toy.half())]
    seeds += [b"\0" + pickle.dumps(evil, protocol=protocol) for protocol in (0, 2, 4)]
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(evil, buffer, _use_new_zipfile_serialization=zipped)
        seeds.append(b"\0" + buffer.getvalue())
    buffer = io.BytesIO()
    torch.save({"state_dict": {f"module.{k}": v for k, v in _toy().state_dict().items()}}, buffer)
    seeds.append(b"\0" + buffer.getvalue())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as pt2:  # what is read of a .pt2, without a graph of several hundred kilobytes
        pt2.writestr("m/archive_format", b"pt2")
        pt2.writestr("m/extra/attn_inject.json", _record_of(seeds[0]))
        pt2.writestr("m/data/sample_inputs/model.pt", pickle.dumps(evil))
    return [*seeds, b"\1" + buffer.getvalue(), b"\2" + _onnx(_record_of(seeds[0]))]


def _record_of(seed: bytes) -> str:
    text = torch.load(io.BytesIO(seed[1:]), weights_only=True)["attn_inject"]
    assert isinstance(text, str)
    return text


def _onnx(record: str) -> bytes:
    """A model message with nothing but metadata: field 14, of key and value."""

    def field(number: int, content: bytes) -> bytes:
        length, size = b"", len(content)
        while True:
            length += bytes([size & 127 | (128 if size > 127 else 0)])
            size >>= 7
            if not size:
                return bytes([number << 3 | 2]) + length + content

    return b"\x08\x08" + field(14, field(1, b"attn_inject") + field(2, record.encode()))


def _safetensors_seeds(folder: Path) -> list[bytes]:
    toy, named = _models()
    return [
        b"\0" + _saved(folder, ".safetensors", toy),
        b"\0" + _saved(folder, ".safetensors", toy, attention_only=True),
        b"\0" + _saved(folder, ".safetensors", named, attention_only=True),
        b"\0" + _saved(folder, ".safetensors", toy.bfloat16()),
    ]


def _plan_seeds(folder: Path) -> list[bytes]:
    plans = [model.injection.plan for model in _models()]
    assert json.loads(plan_to_json(plans[0]))
    return [b"\0" + plan_to_json(p).encode() for p in plans] + [b"\1" + plan_to_toml(p).encode() for p in plans]


def _recipe_seeds(folder: Path) -> list[bytes]:
    return [b"\0" + (FOLDER / f"{name}.toml").read_bytes() for name in recipe.names()]


TARGETS = {
    target.name: target
    for target in (
        Target("load", _file_seeds, _after_kind(mutate.archive), lambda d, f: _file(d, f, KINDS["load"])),
        Target(
            "safetensors",
            _safetensors_seeds,
            _after_kind(mutate.safetensors),
            lambda d, f: _file(d, f, KINDS["safetensors"]),
        ),
        Target("plan", _plan_seeds, _after_kind(mutate.json_text, mutate.toml_text), _plan),
        Target("recipe", _recipe_seeds, _after_kind(mutate.toml_text), _recipe),
    )
}
