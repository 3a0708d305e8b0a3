"""timm's catalogue: whatever the installed timm's `create_attn` makes and that keeps the shape of a map."""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import AttentionError, nearest
from .base import Attention, child_name

# Options that must divide the channels: PSA's groups are fitted, and so are these (heads, parts of a split).
_DIVIDING = ("num_heads", "radix", "split_input")
_LEAST = {int: 1, bool: 0}
# How timm's default of a name differs from the library's own of that name, in its code.
_UNLIKE_OURS = {
    "se": "biases, and a hidden width rounded to a multiple of 8: what --preset timm gives se",
    "eca": "the same function, but a kernel of 3 at least (for fewer than 8 channels), whatever its kernel_size says",
    "cbam": "no biases in its MLP, and the mean before the maximum",
    "coord": "no biases, and a hidden width of C/24 rounded to a multiple of 8",
    "ela": "a convolution for each direction, a SiLU before each sigmoid, and norms of one group",
    "ge": "gathers by one mean over the whole map, as ge does, and then has an MLP C -> C/16 -> C",
    "gc": "multiplies by a gate, where gc adds the context, and a hidden width of C/8 rounded to a multiple of 8",
    "sk": "each branch gets a part of the channels, and does not group them",
}
# Divisible by 7 and by 8, the blocks that timm's windowed attentions cut a map into.
_EXTENT = 56


@functools.cache
def timm_names() -> tuple[str, ...]:
    """The names that `create_attn` knows and whose module maps (N, C, H, W) to the same shape, without the `timm:`."""
    return tuple(name for name in _all_names() if _keeps_shape(name))


@functools.cache
def timm_attention(name: str) -> Attention:
    """The attention `timm:NAME`.

    Raises:
        AttentionError: timm makes none of that name, or one that does not keep the shape. What timm cannot make from a
        channel count alone has a name too: with the options it wants (a feature size, say) it can be made.

    """
    plain = name.removeprefix("timm:")
    if plain not in _all_names() or _keeps_shape(plain) is False:
        hint = nearest(name, [f"timm:{known}" for known in timm_names()])
        raise AttentionError(
            f"timm makes no attention {plain!r} that keeps the shape{hint}; it makes {', '.join(timm_names())}"
        )
    cls, doc = _class_of(plain)
    parameters = list(inspect.signature(cls).parameters.values())
    options = tuple(
        p.name
        for p in parameters[1:]
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and p.name not in ("device", "dtype", "in_channels", "channels")
    )
    return Attention(name, child_name(plain), _factory(plain), options, doc, ndim=2)


def unlike_ours(plain: str) -> str:
    """How timm's attention of a name that the library has too differs from that one; empty where nobody has looked."""
    return _UNLIKE_OURS.get(plain, "")


def _factory(plain: str) -> Callable[..., nn.Module]:
    def make(channels: int, **options: Any) -> nn.Module:
        from timm.layers.create_attn import create_attn

        module = create_attn(plain, channels, **options)  # type: ignore[no-untyped-call]
        assert isinstance(module, nn.Module)
        return module

    def make_fitted(channels: int, **options: Any) -> nn.Module:
        try:
            return make(channels, **options)
        except (AssertionError, ValueError, RuntimeError):
            for name, value, fitted in _fits(plain, options):
                with contextlib.suppress(AssertionError, ValueError, RuntimeError):
                    module = make(channels, **{**options, name: fitted})
                    module.adjustments = (f"with {name} {value} fitted to {fitted}",)  # type: ignore[assignment]
                    return module
            raise

    return make_fitted


def _fits(plain: str, options: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """(option, its value, a smaller one) of what must divide the channels, the largest first."""
    for name, parameter in inspect.signature(_class_of(plain)[0]).parameters.items():
        if name in _DIVIDING and isinstance(value := options.get(name, parameter.default), int):
            yield from (
                (name, value, type(value)(smaller)) for smaller in range(value - 1, _LEAST[type(value)] - 1, -1)
            )


def _class_of(plain: str) -> tuple[Any, str]:
    from timm.layers.create_attn import get_attn

    made_by = get_attn(plain)  # type: ignore[no-untyped-call]
    cls = getattr(made_by, "func", made_by)
    # Not inspect.getdoc of the class: without a docstring of its own it would show nn.Module's.
    own, home = cls.__doc__, inspect.getdoc(inspect.getmodule(cls)) or "timm"
    told = own.strip().splitlines()[0] if own else f"{home.strip().splitlines()[0]} ({cls.__name__})"
    settings = getattr(made_by, "keywords", {})
    return made_by, ", ".join([told.strip(" '."), *(f"{key}={value}" for key, value in settings.items())])


@functools.cache
def _all_names() -> tuple[str, ...]:
    """The words that `get_attn` compares its argument with; timm keeps no list of them."""
    from timm.layers.create_attn import get_attn

    tree = ast.parse(textwrap.dedent(inspect.getsource(get_attn)))
    found = [
        side.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name)
        for side in node.comparators
        if isinstance(side, ast.Constant) and isinstance(side.value, str)
    ]
    return tuple(dict.fromkeys(found))


@functools.cache
def _keeps_shape(plain: str) -> bool | None:
    """Whether the module timm makes from a channel count maps to the same shape; None if it makes none from that."""
    x = torch.empty(2, 64, _EXTENT, _EXTENT, device="meta")
    try:
        with torch.device("meta"):
            module = _factory(plain)(64)
            out = module(x)
    except (TypeError, ValueError, RuntimeError, AssertionError, NotImplementedError):
        return None
    return isinstance(out, torch.Tensor) and out.shape == x.shape
