"""Whether each process has a part of a model's weights, so that no process can read the model anew."""

from __future__ import annotations

import sys

from torch import nn

from ..errors import PlanError

_FSDP = "torch.distributed.fsdp"


def must_not_be_sharded(model: nn.Module) -> None:
    """Refuse what `fully_shard` has taken over: neither the model nor its weights can be copied or compared.

    Raises:
        PlanError: it, or a part of it, is sharded.

    """
    # Nobody has sharded anything with what was never imported, and importing it takes a second.
    kind = getattr(sys.modules.get(_FSDP), "FSDPModule", None)
    if kind is not None and any(isinstance(module, kind) for module in model.modules()):
        raise PlanError(
            "the model is sharded (fully_shard), and each process has a part of its weights: do this before it is "
            "sharded, or to a model that was given the whole state dict "
            "(torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True)"
        )
