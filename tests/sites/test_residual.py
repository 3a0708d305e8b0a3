"""The residual rule, clause by clause, on toy nets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from attn_inject import find_sites, inject

from .. import toys


def _same_at_identity(model: nn.Module, size: tuple[int, ...]) -> None:
    """Identity-initialised SE at all sites: the same output to the bit, each gate run as often as its block."""
    model.eval()
    patched = inject(model, "se", reduction=4, init="identity", input_size=size)
    runs = {insertion.module: 0 for insertion in patched.injection.plan.insertions}
    for path in runs:
        patched.get_submodule(path).register_forward_hook(lambda *_, path=path: runs.__setitem__(path, runs[path] + 1))
    x = torch.randn(2, *size)
    assert torch.equal(patched(x.clone()), model(x.clone()))
    assert runs == {insertion.module: insertion.site.calls for insertion in patched.injection.plan.insertions}


@pytest.mark.parametrize("spelling", toys.SPELLINGS)
@pytest.mark.parametrize(("width", "stride"), [(16, 1), (24, 1), (16, 2)], ids=["identity", "wider", "strided"])
def test_every_spelling_of_the_add(spelling: str, width: int, stride: int) -> None:
    model = toys.Toy(toys.Block(toys.SPELLINGS[spelling], 16, width, stride), out=width)
    (site,) = find_sites(model, input_size=model.size)
    assert (site.kind, site.block, site.channels, site.node) == ("residual", "body", width, "body_bn2")
    assert site.size == (16 // stride,) * 2
    _same_at_identity(model, model.size)


def test_float_functional_add() -> None:
    model = toys.Toy(toys.Quantizable())
    (site,) = find_sites(model, input_size=model.size)
    assert (site.block, site.node) == ("body", "body_bn2")


NETS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    # net -> (maker, the gated value's producer, its channels)
    "pre-activation": (toys.preactivation, "body_b", 24),
    "own pre-activation": (toys.own_preactivation, "body_b", 16),
    "layer scale": (toys.layer_scale, "body_b", 16),
    "partial add": (toys.partial_add, "body_b", 24),
    "partial add in place": (toys.partial_add_in_place, "body_b", 24),
    "channels last": (toys.channels_last, "body_fc2", 16),
}


@pytest.mark.parametrize("net", NETS)
def test_gated_value(net: str) -> None:
    make, producer, channels = NETS[net]
    model = make()
    sites = find_sites(model, input_size=(3, 16, 16))
    assert [(s.kind, s.block, s.node, s.channels) for s in sites] == [("residual", "body", producer, channels)]
    assert sites[0].layout == ("channels_last" if net == "channels last" else "channels_first")
    assert sites[0].size == (16, 16)
    _same_at_identity(model, (3, 16, 16))


def test_parts_of_a_chunk_can_be_iterated_over() -> None:
    model = toys.unpacked_parts()
    (site,) = find_sites(model, input_size=(3, 16, 16))
    assert (site.node, site.channels) == ("body_c", 8)
    _same_at_identity(model, (3, 16, 16))


def test_shared_block_is_one_site_called_twice() -> None:
    model = toys.shared_block()
    (site,) = find_sites(model, input_size=(3, 16, 16))
    assert (site.block, site.calls) == ("body.block", 2)
    _same_at_identity(model, (3, 16, 16))


@pytest.mark.parametrize("net", toys.REFUSED)
def test_look_alikes_are_refused_with_their_reason(net: str) -> None:
    words, make = toys.REFUSED[net]
    sites = find_sites(make(), input_size=(3, 16, 16))
    assert list(sites) == []
    assert any(words in skip.reason for skip in sites.skipped), sites.skipped


def test_one_dimensional_and_three_dimensional_blocks() -> None:
    for d in (1, 3):

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stem, self.a, self.b = (toys.conv(i, 8, d=d) for i in (3, 8, 8))  # noqa: B023

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x = self.stem(x)
                return x + self.b(torch.relu(self.a(x)))

        model, size = Net(), (3,) + (8,) * d
        (site,) = find_sites(model, input_size=size)
        assert (site.channels, site.size) == (8, (8,) * d)
        _same_at_identity(model, size)


def test_model_is_left_as_it_was() -> None:
    model = toys.preactivation().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    versions = [t._version for t in (*model.parameters(), *model.buffers())]
    attributes = {path: sorted(vars(m)) for path, m in model.named_modules()}
    state = torch.get_rng_state()
    find_sites(model, input_size=(3, 16, 16))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.training for m in model.modules())
    assert [t._version for t in (*model.parameters(), *model.buffers())] == versions
    assert {path: sorted(vars(m)) for path, m in model.named_modules()} == attributes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
