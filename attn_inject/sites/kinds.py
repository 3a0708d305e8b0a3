"""The kinds of sites that a caller asks for. No torch in here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..errors import PlanError, must_be, nearest
from ..types import KINDS, Kind


def checked_kinds(kinds: Sequence[Kind] | str) -> tuple[Kind, ...]:
    """The kinds as a tuple, in their usual order.

    Raises:
        PlanError: a kind that does not exist, or none at all.

    """
    must_be("kinds", kinds, Iterable, f"of {', '.join(KINDS)}", PlanError)
    given = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    unknown = [str(kind) for kind in given if kind not in KINDS]
    if unknown or not given:
        hint = nearest(unknown[0], KINDS) if unknown else ""
        raise PlanError(f"kinds are {', '.join(KINDS)}; got {', '.join(unknown) or 'none'}{hint}")
    return tuple(kind for kind in KINDS if kind in given)
