"""One row of a sweep: what is asked for, and how it is made, in whichever process that happens."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import AttnInjectError, first_line
from ..files.described import described
from ..files.imported import own_code, raised
from ..planning.choices import Choices
from ..reporting.asked import asked_models
from ..reporting.comparing import candidates_of, device_of, fitted
from ..reporting.comparison import Candidate
from ..reporting.settings import ReportSettings
from ..surgery.inject import inject_as_chosen
from ..surgery.provenance import versions
from ..zoo.building import build, seeded
from ..zoo.parsing import parse_source
from ..zoo.sizes import input_size
from .rows import Row, mean_interval

PLAIN = "none"

Train = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """One row that is asked for: a model, the choices for it, and how a table calls both.

    `model` is a source's text, or a module or factory of the caller's; `asked` are the choices beside the attention and
    its placement; `code` tells the caller's own code in it (`code_of`).
    """

    model: str | nn.Module | Callable[[], nn.Module]
    name: str
    label: str
    choices: Choices
    asked: Mapping[str, Any]
    code: str = ""

    @property
    def options(self) -> str | None:
        return json.dumps(dict(self.asked), sort_keys=True, default=str) if self.asked else None

    @property
    def key(self) -> str:
        """What makes the row this one and no other."""
        named = [self.name, self.label, self.choices.placement, self.options]
        return json.dumps([*named, self.code] if self.code else named)

    def row(self, **values: Any) -> Row:
        """A row of the table about this."""
        return Row(
            model=self.name,
            attention=self.label,
            placement=self.choices.placement if self.label != PLAIN else "",
            options=self.options,
            **values,
        )


def code_of(*given: Any) -> str:
    """A digest of the caller's own code among what is given: files (`file.py:function`), functions, classes, and of
    models the layers, whatever their weights; nothing where all of it is the name of something else.
    """
    found = [_described(each) for each in given if each is not None and (not isinstance(each, str) or ".py:" in each)]
    return hashlib.sha256("\0".join(found).encode()).hexdigest()[:16] if found else ""


def _described(given: Any) -> str:
    return f"{described(type(given))} {given!r}" if isinstance(given, nn.Module) else described(given)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is measured of every row. `home` is the folder that the names of files are relative to."""

    settings: ReportSettings
    train: str | Train | None
    seeds: tuple[int, ...]
    pretrained: bool
    home: Path

    def measures(self) -> dict[str, Any]:
        """What a journal has to agree on, as JSON."""
        settings = {name: getattr(self.settings, name) for name in self.settings.__dataclass_fields__}
        timing = settings if self.settings.bench else {"convention": self.settings.convention}
        train = self.train if self.train is None or isinstance(self.train, str) else self.train.__qualname__
        training = {"train": train, "seeds": list(self.seeds), "pretrained": self.pretrained} if train else {}
        return {"latency": self.settings.bench, "train": None, **timing, **training}


def make_row(wish: Wish, work: Work) -> Row:
    """Count, time and train as asked; whatever fails is the row's error, beside what had been found until then."""
    start = time.perf_counter()
    row = wish.row(versions=_versions())
    try:
        row = _counted(row, wish, work)
        if work.train is not None:
            row = _trained(row, wish, work)
    except AttnInjectError as error:
        row = replace(row, error=" ".join(str(error).split()))
    except (Exception, SystemExit) as error:
        row = replace(row, error=f"{type(error).__name__}: {first_line(error)}")
    return replace(row, seconds=round(time.perf_counter() - start, 3))


def make_row_at_home(wish: Wish, work: Work) -> Row:
    """`make_row` in a process that was started elsewhere."""
    with contextlib.chdir(work.home) if work.home.is_dir() else contextlib.nullcontext():
        return make_row(wish, work)


def _counted(row: Row, wish: Wish, work: Work) -> Row:
    """The row with what the attention adds, and, if that is asked for, how long it takes."""
    model = wish.model if isinstance(wish.model, (str, nn.Module)) else _made(wish.model, 0)
    if _is_plain(wish):
        if isinstance(model, str):
            build(parse_source(model), device="meta")
        return replace(row, sites=0, parameters=0, macs=0, flops=0, traffic=0, traffic_ratio=1.0)
    (asked,) = asked_models([model], [wish.choices])
    candidates, speeds = candidates_of(asked, work.settings, None, lambda _text, _share: None)
    found = candidates[-1]
    if found.problem is not None:
        raise AttnInjectError(found.problem)
    return _with_costs(replace(row, device=device_of(speeds)), candidates[0], found, work.settings.convention)


def _with_costs(row: Row, plain: Candidate, found: Candidate, convention: str) -> Row:
    figures: dict[str, Any] = {}
    for name in ("parameters", "macs", "flops", "traffic"):
        before, after = getattr(plain, name), getattr(found, name)
        figures |= {name: after - before, f"model_{name}": before}
    row = replace(row, sites=found.sites, convention=convention, **figures)
    if plain.traffic and found.traffic is not None:
        row = replace(row, traffic_ratio=found.traffic / plain.traffic)
    if found.ratio is None:
        return row
    return replace(
        row,
        latency_ratio=found.ratio,
        latency_low=found.ratio_low,
        latency_high=found.ratio_high,
        latency_confidence=found.confidence,
        latency_pairs=found.pairs,
        latency_resolved=found.resolved,
        latency_contended=found.contended,
        latency_seconds=found.seconds,
        model_latency_seconds=plain.seconds,
    )


def _trained(row: Row, wish: Wish, work: Work) -> Row:
    """The row with the accuracy of every seed: each has random weights, and new modules, of its own."""
    train = own_code(work.train, AttnInjectError) if isinstance(work.train, str) else work.train
    assert train is not None
    accuracies = []
    for seed in work.seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            patched = _patched(wish, seed, pretrained=work.pretrained)
            try:
                result = train(patched, seed=seed)
            except (Exception, SystemExit) as error:
                raise AttnInjectError(f"training with seed {seed} ended in {raised(error)}") from error
        accuracies.append(_accuracy(result))
    mean, low, high = mean_interval(accuracies)
    return replace(row, accuracy=mean, accuracy_low=low, accuracy_high=high, accuracies=tuple(accuracies))


def _patched(wish: Wish, seed: int, *, pretrained: bool) -> nn.Module:
    source = None
    if isinstance(wish.model, str):
        source = parse_source(wish.model, pretrained=pretrained, seed=seed)
        model = build(source)
    elif isinstance(wish.model, nn.Module):
        model = copy.deepcopy(wish.model)
    else:
        model = _made(wish.model, seed)
    if _is_plain(wish):
        return model
    return inject_as_chosen(model, fitted(wish.choices, source, input_size(model, source)))


def _is_plain(wish: Wish) -> bool:
    """Whether the model is to stay as it is; with `existing="replace"`, `none` takes attention out instead."""
    return wish.label == PLAIN and wish.choices.existing != "replace"


def _made(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    with seeded(seed):
        made = factory()
    if not isinstance(made, nn.Module):
        raise AttnInjectError(f"the factory gave a {type(made).__name__}, not a torch.nn.Module")
    return made


def _accuracy(result: Any) -> float:
    """What a train function gave, as a number."""
    given: Any = result.get("accuracy") if isinstance(result, Mapping) else result
    try:
        value = float(given)
    except (TypeError, ValueError) as error:
        raise AttnInjectError(
            f"the train function gave a {type(result).__name__}: return the accuracy, or a dict with 'accuracy'"
        ) from error
    if not isfinite(value):
        raise AttnInjectError(f"the train function gave an accuracy of {value}")
    return value


def _versions() -> str:
    known = {"python": platform.python_version(), **versions()}
    return ", ".join(f"{name} {version}" for name, version in known.items())
