"""From a trace to its sites and skips, reading only."""

from .select import Located, analyse, locate

__all__ = ["Located", "analyse", "locate"]
