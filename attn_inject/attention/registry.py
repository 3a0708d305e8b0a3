"""Attentions by name: the papers' own, timm's, and anybody's.

The papers' own stand in `papers`, which names a module and a class for each, imported when used: reading names imports
no torch.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import AttentionError, first_line, nearest
from ..files.imported import own_code, raised
from ..types import Init, Insertion, Plan
from .base import Attention, foreign, options_of, parameters_of
from .papers import PAPERS
from .specs import split_spec

if TYPE_CHECKING:
    from torch import nn


_registered: dict[str, Callable[..., Any]] = {}


def names() -> list[str]:
    """The names that need no import: the papers' attentions and registered ones."""
    return [*PAPERS, *_registered]


def library_names() -> list[str]:
    """The papers' attentions alone."""
    return [*PAPERS]


def summary_of(name: str) -> tuple[str, str]:
    """(one line, arXiv number) of an attention of the table; empty for others."""
    line = PAPERS.get(name)
    return (line.summary, line.paper) if line else ("", "")


def register_attention(name: str, factory: Callable[..., Any]) -> None:
    """Make `factory(channels, **options)` known as `name`, to `inject`, to plans and to saved files.

    Its modules must map (N, C, *spatial) to the same shape; each runs once on the shape of its site before anything is
    edited. Its options are the factory's keyword arguments, given beside the name or in it (`scale:start=0.5`). A name
    that was registered before gets the new factory. Without registering, a class goes by `package.module:Class` or
    `file.py:Class`, which a saved file then names: it loads with `trust_source=True`, or where the name is registered.

    >>> import torch
    >>> from torch import nn
    >>> from attn_inject import inject, register_attention
    >>> from attn_inject.zoo.cifar import models
    >>> class Scale(nn.Module):
    ...     def __init__(self, channels, start=1.0):
    ...         super().__init__()
    ...         self.weight = nn.Parameter(torch.full((channels, 1, 1), start))
    ...
    ...     def forward(self, x):  # (N, C, H, W)
    ...         return x * self.weight
    >>> register_attention("scale", Scale)
    >>> patched = inject(models()["resnet20"](), "scale", start=0.5)
    >>> patched.layer1[0].scale.weight.shape
    torch.Size([16, 1, 1])
    >>> inject(models()["resnet20"](), "scale:start=0.25").layer1[0].scale.weight[0].item()
    0.25

    Raises:
        AttentionError: the name is taken by the library or is no plain name, or the factory cannot be called.

    """
    if not isinstance(name, str) or not name or not name.replace("-", "_").replace(".", "_").isidentifier():
        raise AttentionError(f"an attention's name must be a plain word, got {name!r}")
    if name in PAPERS or name == "none":
        raise AttentionError(f"{name} is one of the library's own attentions: choose another name")
    if not callable(factory) or _is_module_instance(factory):
        raise AttentionError(f"the attention {name} must be a class or a function of the channel count")
    _registered[name] = factory


def resolve(attention: str | type | Callable[..., Any] | Attention) -> Attention:
    """The attention behind a name or a spec (`se:reduction=4`), a class or a function of the channel count.

    Raises:
        AttentionError: an unknown name (with the nearest and the list), or something that cannot be called.

    """
    if isinstance(attention, Attention):
        return attention
    if isinstance(attention, str):
        name, given = split_spec(attention)
        return replace(_by_name(name), given=given) if given else _by_name(name)
    if not callable(attention) or _is_module_instance(attention):
        raise AttentionError(
            f"attention must be a name, a class or a function of the channel count, not {type(attention).__name__}: "
            "every site needs a module of its own"
        )
    return foreign(text_name(attention), attention)


def text_name(factory: Callable[..., Any]) -> str:
    """The name under which a class or function can be found again: registered, else `module:qualname`."""
    for name, known in _registered.items():
        if known is factory:
            return name
    target = getattr(factory, "func", factory)
    return f"{getattr(target, '__module__', '?')}:{getattr(target, '__qualname__', type(target).__name__)}"


def attentions_of(plan: Plan) -> dict[str, Attention]:
    """Every attention that a plan names, resolved once.

    Raises:
        AttentionError: one that is not known here.

    """
    names_in = dict.fromkeys(insertion.attention for insertion in plan.insertions)
    return {
        name: resolve(plan.factory if plan.factory is not None and name == plan.attention else name)
        for name in names_in
    }


def module_for(insertion: Insertion, attention: Attention) -> nn.Module:
    """The new module of one insertion.

    Raises:
        AttentionError: settings that the attention cannot work with.

    """
    return build(
        attention,
        insertion.channels,
        ndim=len(insertion.site.size),
        init=insertion.init,
        options=insertion.options,
    )


def build(
    attention: Attention | str,
    channels: int,
    *,
    ndim: int = 2,
    init: Init = "paper",
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """One new module for maps of `channels` channels and `ndim` spatial axes.

    With init="identity" its output equals its input to the bit at the start: gates start at exactly 1, everything else
    is mixed in by a scalar that starts at zero, or at one where the module starts as the identity by itself.

    Raises:
        AttentionError: settings that the attention cannot work with.

    """
    from torch import nn

    from .gating import ZeroMix, is_identity

    attention, arguments = resolve(attention).settled(options or {})
    attention.check_options(arguments)
    arguments_given = dict(arguments)
    if attention.ndim not in (None, ndim):
        named = ", ".join(PAPERS)
        raise AttentionError(
            f"{attention.name} works on maps of {attention.ndim} spatial axes, not {ndim}: use one of {named}"
        )
    accepted = parameters_of(attention.factory)
    if "ndim" in accepted:
        arguments["ndim"] = ndim
    gate_starts_at_one = attention.kind in ("gate", "map") and "init" in accepted
    if gate_starts_at_one:
        arguments["init"] = init
    try:
        module = attention.factory(channels, **arguments)
    except AttentionError:
        raise
    except (TypeError, ValueError, AssertionError, ArithmeticError, RuntimeError) as error:
        attention.check_options(arguments_given, numbers=True)
        raise AttentionError(
            f"{attention.name} cannot be made for {channels} channels: {first_line(error)}; "
            "give it other options, or leave such sites out (exclude, min_channels)"
        ) from error
    if not isinstance(module, nn.Module):
        raise AttentionError(f"{attention.name} must make an nn.Module, not {type(module).__name__}")
    if init != "identity" or gate_starts_at_one:
        return module
    if arguments.get("stride", 1) != 1 or arguments.get("out_channels") not in (None, channels):
        raise AttentionError(f"init='identity' needs a module that keeps the shape; {attention.name} changes it here")
    mixed = ZeroMix(module)
    if is_identity(module, channels, ndim):
        mixed.start_whole()
    return mixed


def _is_module_instance(value: object) -> bool:
    return hasattr(value, "forward") and not isinstance(value, type)


def _by_name(name: str) -> Attention:
    if name in PAPERS:
        return _of_table(name)
    if name in _registered:
        return foreign(name, _registered[name])
    if name.startswith("timm:"):
        from .timm_made import timm_attention

        return timm_attention(name)
    if all(name.partition(":")):
        return foreign(name, _imported(name))
    if name == "none":
        raise AttentionError("'none' takes attention out: it has no options, and makes no module")
    if name.endswith(".py"):
        raise AttentionError(f"{name} is a file: say which class of it, as in {name}:Scale")
    known = names()
    raise AttentionError(
        f"unknown attention {name!r}{nearest(name, known, count=2)}: "
        f"there are {', '.join(known)}, timm:NAME, package.module:Class and file.py:Class"
    )


@functools.cache
def _of_table(name: str) -> Attention:
    line = PAPERS[name]
    cls = getattr(importlib.import_module(f"{__package__}.{line.home}"), line.cls)
    return Attention(
        name,
        line.child,
        cls,
        options_of(cls),
        line.summary,
        line.paper,
        line.kind,
        family=line.family,
        year=line.year,
    )


def _imported(name: str) -> Callable[..., Any]:
    try:
        value = own_code(name, AttentionError)
    except AttentionError as error:
        raise AttentionError(f"cannot import attention {name!r}: {error}{_mend(name)}") from error
    except (Exception, SystemExit) as error:
        raise AttentionError(f"cannot import attention {name!r}: it ended in {raised(error)}") from error
    if not callable(value):
        raise AttentionError(f"attention {name!r} is a {type(value).__name__}, not a class or function")
    factory: Callable[..., Any] = value
    return factory


def _mend(name: str) -> str:
    head, _, rest = name.partition(":")
    if head in names():
        options = resolve(head).options
        key, _, value = rest.partition("=")
        option = key if key in options else (*options, "key")[0]
        shown = (value if key in options else rest).strip("=") or "VALUE"
        return f"; options of {head} are key=value, as in {head}:{option}={shown}"
    return "; give package.module:Class or file.py:Class, or use register_attention"
