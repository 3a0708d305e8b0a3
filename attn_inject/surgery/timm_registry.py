"""A patched network under a name in timm's registry, so that timm's own scripts build it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from ..errors import SourceError
from .registered import Registered


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

    builder = _Builder("timm", model, attention, name, choices)
    name = builder.__name__
    if timm.is_model(name) and not isinstance(timm.model_entrypoint(name), _Builder):
        raise SourceError(f"timm has a model {name!r} of its own: give another name")
    with warnings.catch_warnings():
        # The same name again is a network that was registered here before.
        warnings.filterwarnings("ignore", "Overwriting")
        timm.models.register_model(builder)
    return name


class _Builder(Registered):
    """What timm calls to build the network."""

    def __call__(self, *, pretrained: bool = False, pretrained_cfg: Any = None, **options: Any) -> nn.Module:
        """Build and patch it."""
        import timm

        given = {name: value for name, value in options.items() if value is not None}
        # A tag behind the name that was asked for goes before the one that was registered.
        name = self.source.name if pretrained_cfg is None else self.source.name.partition(".")[0]
        plain = timm.create_model(name, pretrained=pretrained, pretrained_cfg=pretrained_cfg, **given)
        return self.attached(plain, replace(self.source, args=given))
