"""Models of which parts were compiled, or made by torch.fx: read as they are written, gated all the same."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from attn_inject import PlanError, attach, detach, find_sites, inject, load, save

from .. import toys
from ..toys import Residual

SIZE = (16, 8, 8)
WAYS = [pytest.param(inject, id="inject"), pytest.param(attach, id="attach")]


def _net() -> nn.Sequential:
    return nn.Sequential(*(Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16)) for _ in range(2)))


def _wrapped() -> nn.Module:
    net: Any = _net()
    net[0] = torch.compile(net[0], backend="eager")
    return net


def _method() -> nn.Module:
    net: Any = _net()
    net[0].forward = torch.compile(net[0].forward, backend="eager")
    return net


def _in_place() -> nn.Module:
    net = _net()
    net[0].compile(backend="eager")
    return net


def _whole_method() -> nn.Module:
    net: Any = _net()
    net.forward = torch.compile(net.forward, backend="eager")
    return net


COMPILED: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "wrapped": (_wrapped, ["0._orig_mod", "1"]),
    "method": (_method, ["0", "1"]),
    "in place": (_in_place, ["0", "1"]),
    "whole method": (_whole_method, ["0", "1"]),
}


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("put", WAYS)
def test_a_part_that_is_compiled_is_read_as_it_is_written(put: Any, name: str) -> None:
    make, blocks = COMPILED[name]
    model, x = make().eval(), torch.randn(2, *SIZE)
    assert [site.block for site in find_sites(model, input_size=SIZE)] == blocks
    patched = put(model, "se", input_size=SIZE, reduction=4, init="identity").eval()
    assert toys.gates_run(patched, x) == 2
    with torch.no_grad():
        assert torch.equal(patched(x), model(x))
        for parameter in model.parameters():
            parameter.mul_(1.5)
        # The weights are shared: nothing runs the code of a copy.
        assert torch.equal(patched(x), model(x))
    said = [loss for loss in patched.injection.not_kept if "torch.compile" in loss]
    assert said == (
        []
        if name == "wrapped" and put is attach
        else [f"torch.compile of {'(model)' if 'whole' in name else '0'}: compile it again, or the patched model whole"]
    )


def test_a_compiled_block_stays_compiled_when_attached() -> None:
    attached = attach(_wrapped(), "se", input_size=SIZE, reduction=4)
    assert type(attached[0]) is type(_wrapped()[0])
    assert "0._orig_mod.se.fc1.weight" in attached.state_dict()


class Decides(nn.Module):
    """Decides on its data, so that there is no graph of it."""

    def __init__(self, blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 1e9 else self.blocks(x)


def _with_graph_module() -> nn.Module:
    net = _net()
    net[0] = fx.symbolic_trace(net[0])
    return net


@pytest.mark.parametrize("make", [_with_graph_module, lambda: Decides(_with_graph_module())])
def test_a_block_that_fx_made_keeps_its_attention(make: Any, tmp_path: Any) -> None:
    model, x = make().eval(), torch.randn(2, *SIZE)
    attached = attach(model, "se", input_size=SIZE, reduction=4).eval()
    copied = copy.deepcopy(attached)
    assert toys.gates_run(attached, x) == toys.gates_run(copied, x) == 2
    with torch.no_grad():
        expected = attached(x)
        assert torch.equal(copied(x), expected)
        assert not torch.equal(model(x), expected)
        for parameter in copied.parameters():
            parameter.add_(1)
        assert torch.equal(attached(x), expected)
        save(attached, tmp_path / "model.pt")
        loaded = load(tmp_path / "model.pt", make(), form="module").eval()
        assert torch.equal(loaded(x), expected)
        assert toys.gates_run(loaded, x) == 2
        assert torch.equal(detach(attached)(x), model(x))


def test_a_shallow_copy_of_such_a_block_has_the_attention_too() -> None:
    block: Any = attach(_with_graph_module(), "se", input_size=SIZE, reduction=4)[0]
    assert toys.gates_run(copy.copy(block), torch.randn(2, *SIZE)) == 1


class Renamed(nn.Module):
    """A child of this name is no sign of anything."""

    def __init__(self) -> None:
        super().__init__()
        self._orig_mod = nn.Sequential(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self._orig_mod(x)


def test_a_name_makes_no_compiled_wrapper() -> None:
    assert [site.block for site in find_sites(nn.Sequential(Renamed()), input_size=SIZE)] == ["0"]


def test_what_would_make_its_code_anew_is_refused() -> None:
    attached = attach(_with_graph_module(), "se", input_size=SIZE, reduction=4)
    with pytest.raises(PlanError, match=r"code that is not that of its graph: .* save\(\), or detach\(\)"):
        attached[0].recompile()
    with pytest.raises(PlanError, match="not that of its graph"):
        pickle.dumps(attached)
