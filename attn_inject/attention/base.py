"""What an attention is to the rest of the library: a factory with a name, and what may be asked of it."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..errors import AttentionError, nearest
from .option_types import must_fit

# Arguments that the plan decides, not the user.
_RESERVED = ("init", "ndim", "self")

# How the literature sorts attentions: by what their weights are about (Guo et al. 2022, "Attention mechanisms in
# computer vision: a survey", https://arxiv.org/abs/2111.07624, and GCNet for "context"); "" where nobody has said.
Family = Literal["channel", "spatial", "both", "context", "branch", ""]


@dataclass(frozen=True)
class Attention:
    """One attention: `factory(channels, **options)` makes a module (N, C, *spatial) -> the same shape.

    `child` is the attribute name of new modules; `options` the accepted keyword arguments; `kind` is "gate" where the
    output is x times one weight per channel, "map" where it is x times weights that differ by position and can start
    at one, else "features". `open_options` marks a factory that takes any keyword; `ndim` is the number of spatial axes
    that it works on, None if it takes all maps. `family` and `year` (of the paper) are for listings. `given` are the
    options that stand in its name, where that was a spec (`se:reduction=4`).
    """

    name: str
    child: str
    factory: Callable[..., Any]
    options: tuple[str, ...] = ()
    summary: str = ""
    paper: str = ""
    kind: str = "features"
    open_options: bool = False
    ndim: int | None = None
    family: Family = ""
    year: int = 0
    given: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def fits_convolutions(self) -> bool:
        """Whether it is meant to take a convolution's place: it can change the number of channels, and stride."""
        return {"out_channels", "stride"} <= {*self.options}

    def settled(self, options: Mapping[str, Any]) -> tuple[Attention, dict[str, Any]]:
        """The attention under its plain name, and its options: those that stand in the spec, and these.

        Raises:
            AttentionError: an option is in both; names it.

        """
        for name in self.given.keys() & options.keys():
            raise AttentionError(
                f"{self.name} is given {name} twice: {self.given[name]!r} in the attention's name, "
                f"and {options[name]!r} as an option; leave one out"
            )
        return replace(self, given={}), {**self.given, **options}

    def check_options(self, options: Mapping[str, Any], *, numbers: bool = False) -> None:
        """Refuse options that the attention does not take, and values of another kind than the library's own take.

        With `numbers`, also what is no finite number, as the attention's own code would say in its words.

        Raises:
            AttentionError: names the right ones.

        """
        for name in options:
            if name in self.options or (self.open_options and name not in _RESERVED):
                continue
            if name == "init":
                raise AttentionError(f"{self.name} takes init by itself, as in init='identity', and as no option")
            known = ", ".join(self.options) or "none"
            raise AttentionError(
                f"{self.name} has no option {name!r}{nearest(name, self.options)}; its options: {known}"
            )
        if str(getattr(self.factory, "__module__", "")).startswith(f"{__package__}."):
            must_fit(self.name, self.factory, options, numbers=numbers)


def foreign(name: str, factory: Callable[..., Any]) -> Attention:
    """The attention that somebody's own class or function makes, called `name`."""
    last = name.rpartition(":")[2].rpartition(".")[2].strip("<>")
    child = child_name("".join(c if c.isalnum() else "_" for c in last).lower().strip("_"))
    doc = (inspect.getdoc(factory) or "").strip().splitlines()
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters_of(factory).values())
    return Attention(name, child, factory, options_of(factory), doc[0] if doc else "", open_options=anything)


def child_name(word: str) -> str:
    """`word` as the name of a submodule, which must be writable in Python code (`timm:lambda` is not)."""
    if keyword.iskeyword(word):
        return f"{word}_attention"
    return word if word.isidentifier() else "attention"


def parameters_of(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The factory's parameters by name; none where Python cannot tell."""
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}


def options_of(factory: Callable[..., Any]) -> tuple[str, ...]:
    """The factory's keyword arguments but the first (the channel count) and those the plan decides."""
    parameters = [p for p in parameters_of(factory).values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return tuple(p.name for p in parameters[1:] if p.name not in (*_RESERVED, "device", "dtype"))
