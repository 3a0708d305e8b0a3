"""Which calls of modules a reader follows: those of its skeleton, in its own thread or done in turn.

A module of the model that was given is none of them: whoever calls it runs past the skeleton, in the caller's memory.
"""

from __future__ import annotations

import threading
from collections.abc import Collection

from torch import nn

from .proxies import Unfollowable
from .turns import is_turn_of


class Bounds:
    """Those of a reader that is made in its own thread; `strangers` are the ids of the modules of the model itself."""

    def __init__(self, strangers: Collection[int]) -> None:
        self._strangers = strangers
        self._owner = threading.get_ident()
        # Whether a part ran where nobody reads.
        self._left = False

    def are_left(self, *, with_a_part: bool) -> bool:
        """Whether this thread is nobody's; one that runs a part of the skeleton is refused at the end."""
        elsewhere = not is_turn_of(self._owner)
        self._left = self._left or (elsewhere and with_a_part)
        return elsewhere

    def refuse_stranger(self, module: nn.Module) -> None:
        """Refuse a call of the model itself.

        Raises:
            Unfollowable: it is one of its modules.

        """
        if id(module) in self._strangers:
            raise Unfollowable(
                "its code runs the model itself by a name or an object that no copy of it has: let it go by self"
            )

    def refuse_threads(self) -> None:
        """Refuse what parts of the model did in threads that nobody follows.

        Raises:
            Unfollowable: there was such a thread.

        """
        if self._left:
            raise Unfollowable("other threads run parts of it")
