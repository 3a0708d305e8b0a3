"""The same model with and without a decision on its data: a recording and a graph come to the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import AttnInjectError, attach, find_sites

from ..toys import conv, gates_run

IMAGE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A block whose forward is the test's."""

    def __init__(self, run: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16))
        self.shortcut, self.drop = nn.Identity(), nn.Dropout(0.1)
        self.run = run

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(self, x)


class Net(nn.Module):
    """A stem and a block, between which it may decide on the data."""

    def __init__(self, run: Callable[[Any, torch.Tensor], torch.Tensor], *, decides: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.block, self.decides = conv(3, 16), Block(run), decides

    def forward(self, x: torch.Tensor, turns: int = 1) -> torch.Tensor:
        x = self.stem(x)
        if self.decides and x.mean() < -1e9:
            x = x * 2
        return self.block(x)


def _catches(block: Block, x: torch.Tensor) -> torch.Tensor:
    for _ in range(2):
        try:
            block.body(x[:, :3])
        except RuntimeError:
            continue
    return x + block.body(x)


class Averaging(Net):
    """Calls itself on the image and on its mirror image."""

    def forward(self, x: torch.Tensor, turns: int = 1) -> torch.Tensor:
        if turns:
            return self(x, 0) + self(x.flip(-1), 0)
        return super().forward(x)


RUNS: list[Callable[[Any, torch.Tensor], torch.Tensor]] = [
    lambda m, x: m.shortcut(x) + m.body(x),
    lambda m, x: m.body(x) + m.shortcut(x),
    lambda m, x: m.drop(x) + m.drop(m.body(x)),
    lambda m, x: x.contiguous() + m.body(x),
    lambda m, x: x + m.body(x.contiguous()),
    lambda m, x: x.float() + m.drop(m.body(x)),
    _catches,
]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("placement", ["standard", "pre", "post", "identity"])
@pytest.mark.slow
def test_attention_is_at_the_same_place_in_both_or_refused(
    run: Callable[[Any, torch.Tensor], torch.Tensor], placement: Any
) -> None:
    given: list[torch.Tensor] = []
    for decides in (False, True):
        model = Net(run, decides=decides).eval()
        sites = find_sites(model, input_size=16)
        assert [(site.block, site.kind, site.channels) for site in sites] == [("block", "residual", 16)]
        assert bool(sites.recorded) is decides
        try:
            attached = attach(model, "eca", placement=placement, input_size=16).eval()
        except AttnInjectError as error:
            assert "cannot reach it" in str(error) or "not what was planned" in str(error)
            continue
        for name, parameter in attached.named_parameters():
            if ".eca." in name:
                parameter.data.copy_(torch.arange(parameter.numel()).view(parameter.shape))
        assert gates_run(attached, IMAGE) == 1
        with torch.no_grad():
            given.append(attached(IMAGE))
            assert not torch.equal(given[-1], model(IMAGE))
    assert given or placement != "standard"
    assert all(torch.equal(one, given[0]) for one in given)


@pytest.mark.parametrize("decides", [False, True])
def test_a_model_that_calls_itself(decides: bool) -> None:
    model = Averaging(lambda m, x: x + m.body(x), decides=decides).eval()
    (site,) = find_sites(model, input_size=16)
    assert (site.block, site.calls) == ("block", 2)
    same = attach(model, "se", reduction=4, init="identity", input_size=16).eval()
    assert torch.equal(same(IMAGE), model(IMAGE))
    assert gates_run(same, IMAGE) == 2


def test_weights_that_a_forward_writes_stay_the_callers_whatever_comes_of_it() -> None:
    def run(block: Block, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            block.body[0].weight.mul_(1.5)
        return x + block.body(x)

    model = Net(run, decides=True).eval()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    find_sites(model, input_size=16)
    attached = attach(model, "eca", input_size=16)
    assert gates_run(copy.deepcopy(attached), IMAGE) == 1
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_another_default_device_is_no_matter() -> None:
    model = Net(lambda m, x: x + m.body(x), decides=True).eval()
    with torch.device("meta"):
        assert len(find_sites(model, input_size=16)) == 1
        attached = attach(model, "eca", input_size=16)
    assert not any(parameter.is_meta for parameter in attached.parameters())
    assert gates_run(attached.eval(), IMAGE) == 1
