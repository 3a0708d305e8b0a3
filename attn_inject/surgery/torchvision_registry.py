"""A patched network under a name in torchvision's registry, so that `get_model` and what calls it build it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from ..errors import SourceError
from ..types import Source
from .registered import Registered


def register_torchvision_model(
    model: str, attention: str | type | Callable[..., Any], *, name: str | None = None, **choices: Any
) -> str:
    """Let `torchvision.models.get_model(name)` give torchvision's `model` with attention; returns the name.

    What `get_model` is given goes on to the network that is patched: `weights`, which it has before attention comes in,
    `num_classes`, `weights_backbone`. What it gives is of the network's own class (`attach`).

    torchvision's training scripts (`references/` in its repository) build any model by its name, but import nothing
    that could register one: `recipes/with_torchvision.py` does it and then runs the script as it is.

    >>> from torchvision.models import get_model
    >>> from attn_inject import register_torchvision_model
    >>> register_torchvision_model("resnet18", "eca", init="identity")
    'resnet18_with_eca'
    >>> model = get_model("resnet18_with_eca", num_classes=10)
    >>> type(model).__name__, model.fc.out_features, model.layer1[0].eca
    ('ResNet', 10, ECA(
      (conv): Conv1d(1, 1, kernel_size=(3,), stride=(1,), padding=(1,), bias=False)
    ))

    Args:
        model: a name of torchvision's.
        attention: as `attach` takes it.
        name: instead of `{model}_with_{attention}`; in lower case, since torchvision asks for names so.
        choices: what `attach` takes besides.

    Raises:
        SourceError: torchvision has no such model, or has one of that name already.

    """
    from torchvision.models._api import BUILTIN_MODELS

    builder = _Builder("torchvision", model, attention, name, choices)
    name = builder.__name__.lower()
    if name in BUILTIN_MODELS and not isinstance(BUILTIN_MODELS[name], _Builder):
        raise SourceError(f"torchvision has a model {name!r} of its own: give another name")
    # Not by its `register_model`, which refuses a name that was registered here before.
    BUILTIN_MODELS[name] = builder
    return name


class _Builder(Registered):
    """What torchvision calls to build the network."""

    @property
    def __signature__(self) -> inspect.Signature:
        """The plain builder's, of which torchvision reads what weights there are."""
        return inspect.signature(self._plain)

    def __call__(self, **options: Any) -> nn.Module:
        """Build and patch it."""
        return self.attached(self._plain(**options), self._built_with(options))

    @property
    def _plain(self) -> Callable[..., nn.Module]:
        from torchvision.models import get_model_builder

        builder: Callable[..., nn.Module] = get_model_builder(self.source.name)
        return builder

    def _built_with(self, options: Mapping[str, Any]) -> Source | None:
        """The network again, without fetching anything; None where that is another one."""
        from torchvision.models import get_model_weights

        args = {name: value for name, value in options.items() if value is not None}
        weights = args.pop("weights", None)
        args.pop("weights_backbone", None)
        if weights is None:
            # A backbone with weights has other norms.
            given = inspect.signature(self._plain).bind_partial(**options)
            given.apply_defaults()
            return None if given.arguments.get("weights_backbone") else replace(self.source, args=args)
        member = getattr(weights, "name", weights).rpartition(".")[2]
        if member not in ("DEFAULT", get_model_weights(self._plain).DEFAULT.name):
            args["weights"] = member
        return replace(self.source, args=args, pretrained=True)
