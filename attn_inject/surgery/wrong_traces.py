"""Traces that are not what the model's code does: code may ask what a value is in a way that no proxy can answer."""

from __future__ import annotations

from dataclasses import replace

from ..errors import TraceError, first_line
from ..sites.reading import LocatedModel
from ..types import Plan
from .passes import ADVICE, is_the_model
from .rewrite import rewrite
from .runs import alone_in_eval
from .small_passes import smallest_pass, what_was_traced


def wrong_trace(located: LocatedModel, plan: Plan) -> TraceError | None:
    """That the graphs of a model are not what its own code does (V4 of `passes`); None if they are, or nobody knows."""
    part = rewrite(located, replace(plan, insertions=()))
    traced_on = what_was_traced(part)
    if traced_on is None:
        return None
    name = type(located.part).__name__
    try:
        real, _ = smallest_pass(alone_in_eval(part), *traced_on)
        check, _ = is_the_model(located.part, part, real, traced_on[1])
    except Exception as error:
        return TraceError(f"the graph of {name} does not run: {first_line(error)}")
    figure = check.figure.replace(ADVICE, "")
    return None if check.passed else TraceError(f"the graph of {name} is not what its code does: {figure}")
