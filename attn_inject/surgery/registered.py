"""What a zoo's registry calls to build one of its networks with attention.

A network and an attention make one word, `resnet50_with_eca`: a name in every registry, of which still holds what
scripts read off a network's name (`if "rcnn" in name`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..errors import SourceError, must_be
from ..types import Source
from ..zoo.parsing import parse_source
from .attach import attach


class Registered:
    """A network of a zoo with attention, and its name. How its zoo builds the network is the subclass's `__call__`."""

    def __init__(
        self,
        zoo: str,
        model: str,
        attention: str | type | Callable[..., Any],
        name: str | None,
        choices: Mapping[str, Any],
    ) -> None:
        """Raises SourceError: the zoo has no such model, or the name is no word."""
        must_be("model", model, str, f"a name that {zoo} knows", SourceError)
        self.source = parse_source(f"{zoo}:{model.removeprefix(f'{zoo}:')}")
        self._attention, self._choices = attention, choices
        what = attention if isinstance(attention, str) else getattr(attention, "__name__", type(attention).__name__)
        # What stands behind a dot is the tag of weights.
        self.__name__ = f"{self.source.name.partition('.')[0]}_with_{_word(what)}" if name is None else name
        if self.__name__ != _word(self.__name__):
            raise SourceError(f"{zoo}'s names are letters, digits and underscores, which {name!r} is not")

    def attached(self, plain: nn.Module, source: Source | None) -> nn.Module:
        """`plain` with the attention. A file says that it is of `source`, if that can be written down."""
        if source is not None and not all(isinstance(v, (bool, int, float, str)) for v in source.args.values()):
            source = None
        return attach(plain, self._attention, **{"source": source, **self._choices})


def _word(text: str) -> str:
    return re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")
