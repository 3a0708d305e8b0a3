"""The additive part of what a model, or a piece of one, costs."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Cost:
    """What is held (parameters, buffers; elements) and what one forward pass does.

    `macs` are multiply-accumulates of convolutions, linears and matrix products. `flops` are all arithmetic: two per
    MAC and the elementwise work by the rules of `cost.flops`. `activations` are elements of freshly made results.
    Differences of costs are costs too, and may be negative.
    """

    parameters: int = 0
    buffers: int = 0
    macs: int = 0
    flops: int = 0
    activations: int = 0
    activation_bytes: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)))

    def __sub__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(Cost)))

    @property
    def traffic(self) -> int:
        """Bytes read and written together."""
        return self.bytes_read + self.bytes_written
