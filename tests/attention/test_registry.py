"""Names, options and their errors."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from attn_inject import AttentionError, find_sites, inject, register_attention
from attn_inject.attention.registry import build, names, resolve

from .. import toys


class Halve(nn.Module):
    """Half of everything."""

    def __init__(self, channels: int, factor: float = 0.5) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((channels, 1, 1), factor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("se", {"reduction": 0}, "reduction must be a number from 1"),
        ("se", {"reduction": -4}, "reduction must be a number from 1"),
        ("se", {"min_width": 0}, "min_width must be a whole number from 1"),
        ("se", {"reduction": "x"}, "reduction must be"),
        ("se", {"redution": 4}, "did you mean reduction"),
        ("se", {"gate": "relu"}, "gate must be one of sigmoid, hardsigmoid"),
        ("eca", {"k": 4}, "k must be odd, got 4: 3 or 5"),
        ("eca", {"k": 0}, "k must be a whole number from 1"),
        ("eca", {"gamma": 0}, "gamma"),
        ("psa", {"kernels": (3, 4, 5, 7)}, "kernels must be odd"),
        ("psa", {"kernels": (3, 5)}, "kernels and groups must be as many"),
        ("psa", {"reduction": 0}, "reduction must be a whole number from 1"),
        ("psa", {"order": "up"}, "order must be one of"),
        ("se-gc", {"groups": 0}, "groups must be a whole number"),
    ],
)
def test_impossible_settings(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(AttentionError, match="^[^\n]+$") as caught:
        build(name, 32, options=options)
    assert words in str(caught.value)


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(AttentionError, match="did you mean se") as caught:
        resolve("see")
    assert all(name in str(caught.value) for name in names())
    with pytest.raises(AttentionError, match="timm makes no attention 'cbamm'.*did you mean timm:cbam"):
        resolve("timm:cbamm")
    with pytest.raises(AttentionError, match="cannot import attention"):
        resolve("no.such.module:Thing")
    with pytest.raises(AttentionError, match="every site needs a module of its own"):
        resolve(Halve(8))


def test_classes_functions_and_registered_names() -> None:
    model = toys.Toy(toys.Block(toys.SPELLINGS["+"]))
    for attention in (Halve, lambda channels: Halve(channels), partial(Halve, factor=0.25)):
        patched = inject(model, attention, input_size=(3, 16, 16))
        assert sum(p.numel() for p in patched.parameters()) == sum(p.numel() for p in model.parameters()) + 16
    assert resolve(Halve).options == ("factor",)
    with pytest.raises(AttentionError, match="no option 'factr' .did you mean factor"):
        resolve(Halve).check_options({"factr": 1})
    register_attention("halve-test", Halve)
    patched = inject(model, "halve-test", factor=0.1, input_size=(3, 16, 16))
    assert patched.body.halve_test.factor.flatten()[0].item() == pytest.approx(0.1)
    with pytest.raises(AttentionError, match="library's own"):
        register_attention("se", Halve)
    with pytest.raises(AttentionError, match="must be a class or a function of the channel count"):
        register_attention("one-for-all", Halve(8))  # every site needs a module of its own
    patched = inject(model, "tests.attention.test_registry:Halve", init="identity", input_size=(3, 16, 16))
    assert torch.equal(patched.eval()(x := torch.randn(2, 3, 16, 16)), model.eval()(x))


def test_a_reduction_wider_than_every_site_names_the_site() -> None:
    model = toys.Toy(toys.Block(toys.SPELLINGS["+"]))
    assert find_sites(model, input_size=(3, 16, 16))
    for init in ("paper", "identity"):
        with pytest.raises(AttentionError, match="body.se: reduction 32 is wider than the 16 channels: use at most 16"):
            inject(model, "se", reduction=32, init=init, input_size=(3, 16, 16))


def test_fitted_groups_are_said() -> None:
    model = toys.Toy(toys.Block(toys.SPELLINGS["+"], 16, 24), out=24)
    for init in ("paper", "identity"):
        notes = inject(model, "psa", init=init, input_size=(3, 16, 16)).injection.plan.notes
        assert "psa: 1 of 1 sites with groups (1, 4, 8, 16) fitted to (1, 3, 6, 6) (body.psa)" in notes
