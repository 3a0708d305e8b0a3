"""A patched network under a name in timm's registry, so that timm's own scripts build it.

timm's names have no slash and no colon, and what stands behind a dot is the tag of pretrained weights. So a network and
an attention make one word: `resnet50_with_eca`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from ..errors import SourceError
from ..types import Source
from ..zoo.parsing import parse_source
from .attach import attach


def register_timm_model(
    model: str, attention: str | type | Callable[..., Any], *, name: str | None = None, **choices: Any
) -> str:
    """Let `timm.create_model(name)` give timm's `model` with attention; returns the name.

    What `create_model` is given goes on to the network that is patched: `pretrained=True` (and a tag of weights behind
    the name, `resnet50_with_eca.a1_in1k`), `num_classes`, `drop_path_rate`, `features_only`, `checkpoint_path` with or
    without the attention's weights. What it gives is of the network's own class (`attach`).

    timm's training script imports modules before it builds the model, so it takes such a name as it is: write the line
    below into a file `mine.py` beside it, and call `python train.py --device-modules mine --model resnet26_with_eca`.

    >>> import timm
    >>> from attn_inject import register_timm_model
    >>> register_timm_model("resnet26", "eca", init="identity")
    'resnet26_with_eca'
    >>> model = timm.create_model("resnet26_with_eca", num_classes=10)
    >>> type(model).__name__, model.num_classes, model.layer1[0].eca
    ('ResNet', 10, ECA(
      (conv): Conv1d(1, 1, kernel_size=(5,), stride=(1,), padding=(2,), bias=False)
    ))

    Args:
        model: a name of timm's, with the tag of its weights where `pretrained` shall mean these.
        attention: as `attach` takes it.
        name: instead of `{model}_with_{attention}`.
        choices: what `attach` takes besides.

    Raises:
        SourceError: timm has no such model, or has one of that name already.

    """
    import timm

    source = parse_source(f"timm:{model.removeprefix('timm:')}")
    plain = source.name.partition(".")[0]
    what = attention if isinstance(attention, str) else getattr(attention, "__name__", type(attention).__name__)
    name = f"{plain}_with_{_word(what)}" if name is None else name
    if name != _word(name):
        raise SourceError(f"timm's names are letters, digits and underscores, which {name!r} is not")
    if timm.is_model(name) and not isinstance(timm.model_entrypoint(name), _Patched):
        raise SourceError(f"timm has a model {name!r} of its own: give another name")
    with warnings.catch_warnings():
        # The same name again is a network that was registered here before.
        warnings.filterwarnings("ignore", "Overwriting")
        timm.models.register_model(_Patched(name, source, attention, choices))
    return name


class _Patched:
    """What timm calls to build the network."""

    def __init__(
        self, name: str, source: Source, attention: str | type | Callable[..., Any], choices: dict[str, Any]
    ) -> None:
        self.__name__ = name
        self._source, self._attention, self._choices = source, attention, choices

    def __call__(self, *, pretrained: bool = False, pretrained_cfg: Any = None, **options: Any) -> nn.Module:
        """Build and patch it."""
        import timm

        given = {name: value for name, value in options.items() if value is not None}
        # A tag behind the name that was asked for goes before the one that was registered.
        name = self._source.name if pretrained_cfg is None else self._source.name.partition(".")[0]
        plain = timm.create_model(name, pretrained=pretrained, pretrained_cfg=pretrained_cfg, **given)
        # A file of the network can say what it is built with, if that can be written down.
        known = all(isinstance(value, (bool, int, float, str)) for value in given.values())
        source = replace(self._source, args=given) if known else None
        return attach(plain, self._attention, **{"source": source, **self._choices})


def _word(text: str) -> str:
    return re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")
