"""The verb: what is asked for, refused or made row by row, and kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from ..attention.registry import library_names, resolve, text_name
from ..attention.registry import names as attention_names
from ..attention.specs import split_spec
from ..errors import AttnInjectError, PlanError, SourceError, must_be, must_be_whole
from ..files.imported import own_code
from ..planning.choices import Choices
from ..reporting.settings import ReportSettings, settings_of
from ..reporting.speed import must_be_measurable
from ..zoo import names
from ..zoo.parsing import parse_source
from .cluster import on_cluster
from .journal import Journal, journal_path
from .processes import cores, in_processes
from .rows import Row
from .table import SweepTable, must_be_table
from .work import PLAIN, Train, Wish, Work, code_of, make_row

Model = str | nn.Module | Callable[[], nn.Module]
Progress = Callable[[str, float], None]


def sweep(
    models: Model | Iterable[Model],
    attentions: Any | Sequence[Any],
    *,
    options: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
    out: str | os.PathLike[str] | None = None,
    train: str | Train | None = None,
    seeds: int = 1,
    pretrained: bool = False,
    latency: bool = True,
    processes: int | None = None,
    address: str | None = None,
    retry_errors: bool = False,
    progress: Progress | None = None,
    settings: ReportSettings | None = None,
    **others: Any,
) -> SweepTable:
    """Put every attention into every model under every set of options, and make one table of what that gives.

    >>> from attn_inject import sweep
    >>> from attn_inject.zoo.cifar import models
    >>> table = sweep(models()["resnet20"], ["se:reduction=4", "eca"], latency=False)
    >>> [(row.attention, row.sites, row.parameters, row.error) for row in table]
    [('se:reduction=4', 9, 8064, None), ('eca', 9, 27, None)]

    What fails for one row, be it the model's code or the process that it ran in, is that row's `error`. With `out`,
    each row is noted in a journal beside it (`table.csv.journal`) when it is done, and the same call goes on where the
    last one was stopped, however that happened; rows in the journal that are not asked for now are left there, so that
    a sweep can grow. Rows whose model, attention or train function is other code now (a file, a function, a class, a
    model of other layers) are made again; of what such code imports or calls nothing is known. The table itself is
    written at the end. Delete the journal to start anew.

    Args:
        models: sources ("resnet50", "timm:resnet50d", "nets.py:make", ...), globs of the zoos' names ("resnet*"), and
            models or functions that make one.
        attentions: specs ("se:reduction=4"), or an attention as `inject` takes it. "none" is the model as it is, for
            its accuracy.
        options: choices of `inject` that hold for all rows (`{"placement": "pre"}`), or several such sets, each with
            rows of its own; a word that is no choice is an option of the attention.
        out: the table's file, `.csv` or `.parquet`.
        train: "file.py:function", "package.module:function", or a function: called as `train(model, seed=0)`, it trains
            the model and gives its accuracy, or a dict with "accuracy". Every seed has a model of its own, with random
            weights (or, with `pretrained`, the zoo's) and new modules from that seed.
        seeds: how many, from 0 on; more than one wants `train`.
        latency: whether to measure speed, for at most `bench_seconds` each row.
        processes: of this machine. By default as many as it has processors, but one where latency is measured, since
            clocks want the machine for themselves (rows say when it was busy); 0 is this process, and must be where
            models, attentions or the train function are objects and not names.
        address: of a Ray cluster (`auto`, `host:port`, ...) that does the work instead.
        retry_errors: do rows of the journal again that ended in an error.
        progress: called with a text and the share that is done.
        settings: of the measurement, or each by the name that `report` has for it (`device="cpu"`, `batch=8`, ...).

    Raises:
        SourceError, AttentionError, PlanError: a name that means nothing, before any work.
        AttnInjectError: the journal of another sweep, or no cluster.
        CheckpointError: `out` cannot be written.

    """
    _must_be_numbers(seeds, processes, train)
    sets = _sets(options)
    wishes = _wishes(_models(models, pretrained=pretrained), _listed(attentions), sets, train)
    if isinstance(train, str):
        own_code(train, AttnInjectError)
    work = Work(
        settings=settings_of(settings, bench=latency, **others),
        train=train,
        seeds=tuple(range(seeds)),
        pretrained=pretrained,
        home=Path.cwd(),
    )
    must_be_measurable(work.settings, here=address is None)
    portable = all(map(_is_portable, wishes)) and (train is None or isinstance(train, str))
    if not portable and (processes or address):
        raise AttnInjectError(
            "models, attentions and train functions that are objects, or registered here, stay here: give names "
            "(file.py:function), or leave processes and address out"
        )
    if processes is None:
        processes = 0 if not portable else 1 if latency else cores()
    path = None if out is None else Path(out)
    if path is not None:
        must_be_table(path)
    with nullcontext() if path is None else Journal(journal_path(path), work.measures()) as journal:
        done = {} if journal is None else dict(journal.rows)
        if retry_errors:
            done = {key: row for key, row in done.items() if row.error is None}
        missing = [wish for wish in wishes if wish.key not in done]
        with closing(_made(missing, work, processes, address)) as rows:
            for count, (wish, row) in enumerate(rows, start=len(wishes) - len(missing) + 1):
                done[wish.key] = row
                if journal is not None:
                    journal.add(wish.key, row)
                if progress is not None:
                    progress(f"{count} of {len(wishes)}: {row.model} + {row.label}", count / len(wishes))
    table = SweepTable(tuple(done[wish.key] for wish in wishes))
    if path is not None:
        table.write(path)
    return table


def _sets(options: Any) -> list[Mapping[str, Any]]:
    """Every set of options; PlanError for what is none."""
    sets = [options] if isinstance(options, Mapping) else list(options) if isinstance(options, Iterable) else [options]
    for each in sets:
        must_be("options", each, Mapping, "a dict of choices, or several", PlanError)
    return sets or [{}]


def _must_be_numbers(seeds: int, processes: int | None, train: Any) -> None:
    must_be_whole("seeds", seeds)
    if seeds > 1 and train is None:
        raise AttnInjectError("seeds are how often a model is trained: give train, or leave them out")
    if processes is not None:
        must_be_whole("processes", processes, 0)


def _made(
    wishes: Sequence[Wish], work: Work, processes: int, address: str | None
) -> Generator[tuple[Wish, Row], None, None]:
    """The rows as they are done, from wherever they are to be made."""
    if not wishes:
        return
    if address is not None:
        yield from on_cluster(wishes, work, address)
    elif processes:
        yield from in_processes(wishes, work, min(processes, len(wishes)))
    else:
        for wish in wishes:
            yield wish, make_row(wish, work)


def _models(given: Model | Iterable[Model], *, pretrained: bool) -> list[tuple[str, Model]]:
    """Every model with what the table calls it, each once; what no zoo knows is refused."""
    found: dict[str, Model] = {}
    for model in _listed(given):
        if isinstance(model, str):
            for text in _matching(model):
                parse_source(text, pretrained=pretrained)
                found[text] = text
            continue
        name = type(model).__name__ if isinstance(model, nn.Module) else _name(model)
        if name in found and found[name] is not model:
            raise AttnInjectError(f"two models are called {name}: give functions with names of their own")
        found[name] = model
    if not found:
        raise AttnInjectError("there is no model to sweep over")
    return list(found.items())


def _matching(text: str) -> list[str]:
    """The names that a glob means, as they are to be asked for; a name means itself."""
    if ".py:" in text or not any(letter in text for letter in "*?["):
        return [text]
    known = [model.text for model in names.models(text)]
    if not known:
        raise SourceError(f"no model's name matches '{text}'")
    return known


def _listed(given: Any) -> list[Any]:
    if isinstance(given, (str, nn.Module)) or callable(given):
        return [given]
    return list(given)


def _wishes(
    models: Sequence[tuple[str, Model]], attentions: Sequence[Any], sets: Sequence[Any], train: Any
) -> list[Wish]:
    """Every combination, each once, in order."""
    if not attentions:
        raise AttnInjectError("there is no attention to sweep over")
    found: dict[str, Wish] = {}
    called: dict[str, Any] = {}
    for (name, model), attention, asked in product(models, attentions, sets):
        wish = _wish(name, model, attention, asked)
        if called.setdefault(wish.label, attention) is not attention and not isinstance(attention, str):
            raise AttnInjectError(f"two attentions are called {wish.label}: give them names of their own")
        registered = resolve(attention).factory if _is_registered(attention) else None
        wish = replace(wish, code=code_of(model, attention, train, registered))
        found.setdefault(wish.key, wish)
    for wish in found.values():
        if wish.name == models[0][0]:
            _must_make_sense(wish)
    return list(found.values())


def _wish(name: str, model: Model, attention: Any, asked: Mapping[str, Any]) -> Wish:
    known = {item.name for item in fields(Choices)} - {"attention", "source", "options"}
    choices = {key: value for key, value in asked.items() if key in known}
    others = {key: value for key, value in asked.items() if key not in known}
    if isinstance(attention, str) and attention == PLAIN and asked.get("existing") != "replace":
        choices, others, asked = {}, {}, {}
    label = attention if isinstance(attention, str) else _name(attention)
    return Wish(
        model=model,
        name=name,
        label=label,
        choices=Choices(attention=attention, options=others, **choices),
        asked={key: value for key, value in asked.items() if key != "placement"},
    )


def _name(made_by: Any) -> str:
    """What the table calls a class or function; the same when it is asked for again."""
    return str(getattr(made_by, "__name__", None) or text_name(made_by))


def _is_portable(wish: Wish) -> bool:
    """Whether another process can make the row: whether all of it is text that means the same there."""
    attention = wish.choices.attention
    return isinstance(wish.model, str) and isinstance(attention, str) and not _is_registered(attention)


def _is_registered(attention: Any) -> bool:
    """Whether it is a name that the caller registered in this process."""
    known = {*attention_names()} - {*library_names()}
    return isinstance(attention, str) and split_spec(attention)[0] in known


def _must_make_sense(wish: Wish) -> None:
    """Refuse what no model could be given, before any work."""
    if wish.label == PLAIN and wish.choices.existing != "replace":
        return
    wish.choices.validate()
    _ = wish.choices.wanted_kinds
    if wish.choices.attention != PLAIN:
        attention, settled = resolve(wish.choices.attention).settled(wish.choices.options)
        attention.check_options(settled)
    elif wish.choices.options:
        raise PlanError("attention 'none' takes attention out: it has no options")
