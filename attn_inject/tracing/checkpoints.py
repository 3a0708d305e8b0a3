"""Activation checkpoints that a model's code enters while it is traced: `torch.utils.checkpoint` runs the function that
it is given, so that a graph has its operations and keeps their results, as if there was no checkpoint. Offloading what
is saved is lost in the same way; both hook the tensors that autograd saves.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.autograd.graph import saved_tensors_hooks
from torch.utils import checkpoint

# What a checkpoint goes through in older torch, which hooks nothing where no input is a tensor that wants a gradient:
# those of a trace are none. Before it has found that out, it has called a function with them (`_ASKED`).
_ENTERED, _ASKED = "_checkpoint_without_reentrant_generator", "_NoopSaveInputs"
_SHOWN = 3


@contextmanager
def checkpoints_noted(note: Callable[[], None]) -> Iterator[None]:
    """Call `note` for each checkpoint that is entered in here.

    One of `use_reentrant=True` is an autograd function, which would be one node; here it runs what it is given.
    """
    kept: list[tuple[Any, str, Any]] = [(saved_tensors_hooks, "__enter__", saved_tensors_hooks.__enter__)]
    if hasattr(checkpoint, _ENTERED):
        kept.append((checkpoint, _ENTERED, getattr(checkpoint, _ENTERED)))
    for home, name, function in kept:
        entered = _around_nothing if name == _ENTERED and hasattr(checkpoint, _ASKED) else function
        setattr(home, name, _noted(entered, note))
    own = checkpoint.CheckpointFunction
    kept_apply = vars(own).get("apply")
    general = own.apply.__func__

    def apply(cls: type, *args: Any) -> Any:
        return _noted(_run, note)(*args) if cls is own else general(cls, *args)

    own.apply = classmethod(apply)
    try:
        yield
    finally:
        if kept_apply is None:
            del own.apply
        else:
            own.apply = kept_apply
        for home, name, function in kept:
            setattr(home, name, function)


def _around_nothing(*_: Any, **__: Any) -> Iterator[None]:
    """What older torch runs around a function whose inputs want no gradient."""
    yield


def _run(run_function: Callable[..., Any], _preserve_rng_state: bool, *args: Any) -> Any:  # noqa: FBT001
    """What `CheckpointFunction.apply` is given, run without it."""
    return run_function(*args)


@contextmanager
def quiet_checkpoints() -> Iterator[None]:
    """Leave out what checkpoints say of every run that is not to learn: such runs are ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad")
        yield


def _noted(function: Callable[..., Any], note: Callable[[], None]) -> Callable[..., Any]:
    def noted(*args: Any, **kwargs: Any) -> Any:
        note()
        return function(*args, **kwargs)

    return noted


def checkpoint_losses(names: Iterable[str]) -> tuple[str, ...]:
    """What a patched model will not have of the checkpoints in modules of these names; nothing if there are none."""
    found = list(dict.fromkeys(names))
    if not found:
        return ()
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    where = ", ".join(found[:_SHOWN]) + more
    return (f"activation checkpointing, which was on in {where}: what it would work out again is kept",)
