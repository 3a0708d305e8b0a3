"""Parameters that no loss reaches, by the maths: only rounding moves them.

A bias before a batch norm, which subtracts it again, and one before a softmax over places, which a constant more leaves
as it is. The papers' authors have them in their code, so that they are here too.
"""

from __future__ import annotations

_IDLE = {
    "bam": {"channel.0.bias", "spatial.0.bias", "spatial.3.bias", "spatial.6.bias"},
    "coord": {"conv.bias"},
    "double": {"gather.bias"},
    "gam": {"conv1.bias", "conv2.bias"},
    "gc": {"attention.bias"},
}


def is_idle(attention: str, parameter: str) -> bool:
    """Whether the attention's parameter of that name, in the module or its `ZeroMix`, is one of them."""
    return parameter.removeprefix("inner.") in _IDLE.get(attention, ())
