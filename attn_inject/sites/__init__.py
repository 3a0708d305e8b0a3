"""From a trace to its sites and skips, reading only."""

from .found import Located
from .select import analyse, locate

__all__ = ["Located", "analyse", "locate"]
