"""Every CNN of both zoos traces in both modes, and its residual sites are those that the oracle sees."""

from __future__ import annotations

import fnmatch
import os

import pytest

from .sweep import sweep

pytestmark = pytest.mark.zoo

# Where the two differ, and why ours is right. Anything else is a failure.
ORACLE_SEES_MORE = {
    "*:lraspp_*": "adds maps of two resolutions (R6), which the oracle does not ask about",
    "timm:nasnetalarge": "combines sums in cells (R7)",
    "timm:pnasnet5large": "combines sums in cells (R7)",
    "timm:mvitv2_*": "adds attention heads, not maps: the oracle looks at rank 4 only",
    "timm:mobilevitv2_*": "its transformer cannot be traced into, and works on unfolded tokens",
    "timm:gcvit_*": "the branch's only convolution is that of a query shared by many blocks",
}
ORACLE_SEES_LESS = {
    "timm:dpn*": "the shortcut is a slice, where the oracle starts afresh",
    "timm:efficientvim_*": "the branch is f(x) - x, of which x is an affine ancestor",
}
# Every CNN family that has at least this many members traced; a sweep that silently lost its models would fail here.
_LEAST = 700


@pytest.fixture(scope="module")
def rows() -> list:  # type: ignore[type-arg]
    return [row for row in sweep([], os.cpu_count() or 1) if row.is_cnn]


def test_every_cnn_traces(rows: list) -> None:  # type: ignore[type-arg]
    assert len(rows) >= _LEAST
    assert {row.name: row.error for row in rows if row.error} == {}


def test_sites_are_those_of_the_oracle(rows: list) -> None:  # type: ignore[type-arg]
    wrong = {
        row.name: (row.extra, row.missing)
        for row in rows
        if (row.extra and not _known(row.name, ORACLE_SEES_LESS))
        or (row.missing and not _known(row.name, ORACLE_SEES_MORE))
    }
    assert wrong == {}


def _known(name: str, table: dict[str, str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in table)
