"""What a comparison is asked for, model by model: what goes into each, and what somebody has put into it already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import PlanError, must_be
from ..planning.choices import Choices
from ..planning.recipe import Recipe, load_recipe
from ..surgery.apply import remove
from ..surgery.records import records_of
from ..types import Source
from ..zoo.building import build
from ..zoo.parsing import parse_source

Models = str | nn.Module | Iterable[str | nn.Module | tuple[str, nn.Module]]


@dataclass(frozen=True)
class Wanted:
    """What to put into a model, and what the comparison calls it."""

    label: str
    choices: Choices

    @classmethod
    def of(cls, asked: Any) -> Wanted:
        """An attention as `inject` takes it, `Choices`, or a recipe, which goes by its own name."""
        if isinstance(asked, Recipe):
            return cls(asked.name, asked.choices)
        choices = asked if isinstance(asked, Choices) else Choices(attention=asked)
        attention = choices.attention
        return cls(attention if isinstance(attention, str) else getattr(attention, "__name__", str(attention)), choices)


@dataclass
class AskedModel:
    """One model of a comparison, and what is to go into it."""

    model: nn.Module | Source
    name: str
    wanted: list[Wanted] = field(default_factory=list)


@dataclass(frozen=True)
class Bare:
    """A model without attention, and itself with what it came with, if it came with any: (its names, the model)."""

    model: nn.Module
    source: Source | None
    patched: tuple[str, nn.Module] | None


def asked_models(
    models: Models, attentions: Sequence[Any], recipes: Sequence[str | Path | Recipe] = ()
) -> list[AskedModel]:
    """Every model once, with all that goes into it: the attentions into each of `models`, a recipe into its own.

    Raises:
        SourceError: a name that means no model.
        PlanError: a recipe that is not there, or is not a sound one; a model that nothing is to go into.

    """
    must_be("models", models, (str, nn.Module, Iterable), "a model, a source such as 'resnet50', or several")
    found = [_asked(each) for each in ([models] if isinstance(models, (str, nn.Module)) else models)]
    for each in found:
        each.wanted += [Wanted.of(attention) for attention in attentions]
    for recipe in recipes:
        followed = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
        source = parse_source(followed.model, model_args=followed.model_args)
        its = next((each for each in found if each.model == source), None)
        if its is None:
            found.append(its := AskedModel(source, source.name))
        its.wanted.append(Wanted.of(followed))
    for each in found:
        if not each.wanted and not _attention_in(each.model):
            raise PlanError(
                f"nothing to compare {each.name} with: say which attention is to go into it, or give a recipe for it"
            )
    return found


def _asked(asked: str | nn.Module | tuple[str, nn.Module]) -> AskedModel:
    if isinstance(asked, tuple):
        name, model = asked
        return AskedModel(model, name)
    if isinstance(asked, nn.Module):
        return AskedModel(asked, type(asked).__name__)
    source = parse_source(asked)
    return AskedModel(source, source.name)


def bare_model_of(asked: AskedModel, *, timed: bool) -> Bare:
    """The model itself; one that will not run is built without weights, since counting needs none."""
    if isinstance(asked.model, Source):
        return Bare(build(asked.model, device=None if timed else "meta"), asked.model, None)
    model = asked.model
    names = _attention_in(model)
    if not names:
        return Bare(model, None, None)
    return Bare(remove(model), None, (" and ".join(names), model))


def _attention_in(model: nn.Module | Source) -> list[str]:
    """The names of what somebody has put into it."""
    if isinstance(model, Source):
        return []
    return list(dict.fromkeys(record.plan.attention for _, record in records_of(model) if record.plan.insertions))
