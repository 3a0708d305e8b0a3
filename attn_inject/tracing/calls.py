"""How the model around a part calls it: with which inputs, and which other arguments, which a graph holds for."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .alias import alias
from .caches import nothing_kept
from .draws import Draws
from .face import is_of_numbers, is_plain
from .inputs import Inputs, Signature, tensors_in
from .onlookers import nothing_kept_by_hooks
from .restoring import aside_in_mode
from .shapes import inputs_to_try

_TRIALS = 3
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
Call = tuple[tuple[Any, ...], dict[str, Any]]


def usual_inputs(model: nn.Module) -> Iterator[Inputs]:
    """Images of the few sizes that are tried where nobody says which one a model takes, on the meta device.

    A model that wants several inputs gets an image for each: two views, two frames.
    """
    signature = Signature.of(model.forward, None)
    count, names = len(signature.positional), [name for name, _ in signature.named]
    for inputs in itertools.islice(inputs_to_try(model), _TRIALS):
        (image,) = inputs.on_meta().values
        yield Inputs((image,) * count, dict.fromkeys(names, image)) if count + len(names) > 1 else Inputs((image,))


def run_on_meta(model: nn.Module, inputs: Inputs) -> Any:
    """What `model`, which is on the meta device, gives: shapes without arithmetic, and no number is drawn by it.

    Its hooks keep nothing of it.
    """
    undone = Draws.of(model).undone()
    with torch.no_grad(), torch.device("meta"), undone, nothing_kept(model), nothing_kept_by_hooks(model):
        return inputs.given_to(model)


def calls_of(part: nn.Module) -> list[Call]:
    """A list that takes the arguments of every call of the part's forward, from here on."""
    calls: list[Call] = []
    forward = part.forward

    @functools.wraps(forward)
    def noting(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        return forward(*args, **kwargs)

    vars(part)["forward"] = noting
    return calls


def inputs_in_place(model: nn.Module, scope: str) -> Inputs | None:
    """What `model` gives its part at `scope`, on an image of a usual size, in eval mode.

    None if it runs on none, or not with this part, or gives it what is neither an input nor a plain value.
    """
    whole = aside_in_mode(alias(model).to("meta"), "eval")
    part = whole.get_submodule(scope)
    forward, calls = part.forward, calls_of(part)
    for inputs in usual_inputs(whole):
        calls.clear()
        try:
            run_on_meta(whole, inputs)
        except Exception:  # Whatever the model minds, it may not mind at the next size.
            continue
        return inputs_of_call(forward, *calls[0]) if calls else None
    return None


def inputs_of_call(forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs | None:
    """What a forward that is called so takes as inputs, and which plain values it takes beside them.

    Numbers are inputs too: most are sizes (`block(x, height, width)`), which are others with another image. What is
    decided on them becomes a guard. None if it is given what a graph could not hold for.
    """
    signature = inspect.signature(forward)
    given = signature.bind(*args, **kwargs).arguments
    positional: list[Any] = []
    named: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    in_order = True
    for name, parameter in signature.parameters.items():
        # What follows an argument that is left out has to be named.
        in_order = in_order and (name in given or parameter.kind is inspect.Parameter.VAR_POSITIONAL)
        if name not in given:
            continue
        value, kind = given[name], parameter.kind
        for key, each in value.items() if kind is inspect.Parameter.VAR_KEYWORD else [(name, value)]:
            if any(True for _ in tensors_in(each)) or (is_of_numbers(each) and kind in _BY_NAME):
                if kind is inspect.Parameter.VAR_POSITIONAL:
                    positional += each
                elif kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and in_order and not named and not fixed:
                    positional.append(each)
                else:
                    named[key] = each
            elif is_plain(each) and kind in _BY_NAME:
                fixed[key] = each
            elif each is not parameter.default:
                return None
    return Inputs(tuple(positional), named, fixed)
