"""The figures of README's table of the attentions."""

from __future__ import annotations

from .table import T, added


def test_its_figures_are_the_known_ones() -> None:
    """FACTS of ResNet-50: 2.826 GB of block outputs; the SE paper's 2.51 M; a gate reads, reads and writes each map."""
    assert round(T / 1e9, 3) == 2.826
    parameters, traffic = added("se")
    assert parameters == 2_514_944
    assert 3 < traffic < 3.05  # and the pooled vectors, and the weights
    assert added("eca")[0] == 86
