"""The figures of README's table of the attentions."""

from __future__ import annotations

from .table import T, added, left


def test_its_figures_are_the_known_ones() -> None:
    """FACTS of ResNet-50: 2.826 GB of block outputs; the SE paper's 2.51 M; a gate reads, reads and writes each map."""
    assert round(T / 1e9, 3) == 2.826
    parameters, traffic = added("se")
    assert parameters == 2_514_944
    assert 3 < traffic < 3.05  # and the pooled vectors, and the weights
    assert added("eca")[0] == 86


def test_what_is_left_is_the_least_that_a_gate_can_do() -> None:
    """A quarter of T: the pool reads the input of the last convolution. FCA's reads it, casts it and reads it again."""
    assert 0.25 < left("se") < 0.27
    assert 1.25 < left("fca") < 1.4
    # What is not linear in the map is pooled where it was.
    assert left("srm") > 1
