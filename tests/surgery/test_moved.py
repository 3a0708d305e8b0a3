"""Models that are patched and then moved or cast: code that asks its weights where they are asks anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import GuardError, attach, inject

from ..toys import SPELLINGS, Block, conv, gates_run

SIZE = (3, 8, 8)
Asks = Callable[[nn.Module, torch.Tensor], torch.Tensor]


class Asking(nn.Module):
    """What `asks` makes of its input, a block, and a head."""

    def __init__(self, asks: Asks) -> None:
        super().__init__()
        self.asks, self.stem, self.body = asks, conv(3, 16), Block(SPELLINGS["+"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self.stem(self.asks(self, x))).mean((2, 3))


def _weight(model: Any) -> torch.Tensor:
    return next(model.parameters())


FOLLOWS: dict[str, Asks] = {
    "type of a layer's weight": lambda m, x: x.to(m.stem.weight.dtype),
    "type of the first parameter": lambda m, x: x.to(_weight(m).dtype),
    "device of the first parameter": lambda m, x: x.to(_weight(m).device, _weight(m).dtype),
    "by name": lambda m, x: x.to(device=_weight(m).device, dtype=_weight(m).dtype),
    "like a weight": lambda m, x: x.to(_weight(m)),
    "a factory": lambda m, x: x.to(_weight(m)) * torch.ones(1, device=_weight(m).device, dtype=_weight(m).dtype),
    "a range": lambda m, x: x.to(_weight(m)) + torch.arange(x.shape[-1]).to(_weight(m).device, m.stem.weight.dtype),
    "the least number": lambda m, x: x.to(_weight(m)) + torch.finfo(_weight(m).dtype).tiny,
    "a state dict": lambda m, x: x.to(m.state_dict()["stem.weight"].dtype),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("asks", FOLLOWS)
def test_a_patched_model_that_is_cast_runs_as_the_original_does(asks: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Asking(FOLLOWS[asks]).eval()
    patched = inject(model, "eca", input_size=SIZE, init="identity", copy=True)
    assert patched.injection.guards == ()
    x = torch.randn(2, *SIZE)
    assert torch.equal(patched(x), model(x))
    assert torch.equal(patched.to(dtype)(x), model.to(dtype)(x))
    assert gates_run(patched, x) == 1


@pytest.mark.parametrize("asks", FOLLOWS)
def test_a_patched_model_that_is_moved_runs_there(asks: str) -> None:
    patched = inject(Asking(FOLLOWS[asks]), "eca", input_size=SIZE).to("meta")
    out = patched(torch.randn(2, *SIZE, device="meta"))
    assert (out.device.type, out.shape) == ("meta", (2, 16))
    assert gates_run(patched, torch.randn(2, *SIZE, device="meta")) == 1


DECIDES: dict[str, tuple[Asks, str]] = {
    # what is asked -> (code, what it came to)
    "a type": (lambda m, x: x * (2 if _weight(m).dtype == torch.float32 else 3), "True"),
    "one of types": (lambda m, x: x * (3 if m.stem.weight.dtype in (torch.half, torch.double) else 2), "False"),
}


@pytest.mark.parametrize("asks", DECIDES)
def test_code_that_decides_on_a_type_is_checked_and_says_what_to_do(asks: str) -> None:
    code, came_to = DECIDES[asks]
    model = Asking(code).eval()
    patched = inject(model, "eca", input_size=SIZE, init="identity", copy=True)
    (guard,) = patched.injection.guards
    assert guard.outcome == came_to
    x = torch.randn(2, *SIZE)
    assert torch.equal(patched(x), model(x))
    with pytest.raises(
        GuardError, match="now: inject into the model after it is moved or cast, or use attach"
    ) as caught:
        patched.double()(x.double())
    assert str(caught.value).startswith(
        f"the network was traced where {guard.line} came to {came_to}, and it comes to "
    )
    followed = attach(model, "eca", input_size=SIZE, init="identity", copy=True)
    assert torch.equal(followed.double()(x.double()), model.double()(x.double()))
    assert gates_run(followed, x.double()) == 1


ON_DEVICES: dict[str, tuple[Asks, list[str]]] = {
    # what is asked -> (code, what the guards came to)
    "the kind of an input's device": (lambda m, x: x * (2 if x.device.type == "cpu" else 3), ["cpu"]),
    "a device, equal": (lambda m, x: x * (3 if x.device == torch.device("cuda") else 2), ["False"]),
    "a device, unequal": (lambda m, x: x * (2 if torch.device("cuda") != _weight(m).device else 3), ["True"]),
    "a fact of a device": (lambda m, x: x * (3 if _weight(m).is_cuda else 2), ["False"]),
    "a device as text": (lambda m, x: x * torch.full((1,), 2.0, device=f"{x.device}"), ["cpu"]),
    "a number of a device": (lambda m, x: x * (2 if x.device.index is None else 3), []),
}


@pytest.mark.parametrize("asks", ON_DEVICES)
def test_code_that_decides_on_a_device_goes_the_way_it_goes_there(asks: str) -> None:
    code, outcomes = ON_DEVICES[asks]
    model = Asking(code).eval()
    patched = inject(model, "eca", input_size=SIZE, init="identity", copy=True)
    assert [guard.outcome for guard in patched.injection.guards] == outcomes
    x = torch.randn(2, *SIZE)
    assert torch.equal(patched(x), model(x))
    if "cpu" in outcomes:
        with pytest.raises(GuardError, match="came to cpu, and it comes to meta now"):
            patched.to("meta")(x.to("meta"))


def _cached(model: Any, x: torch.Tensor) -> torch.Tensor:
    # As LeViT keeps the biases of its attention.
    kept: dict[str, torch.Tensor] = {}
    if str(x.device) not in kept:
        kept[str(x.device)] = torch.ones(1, device=x.device)
    return x * kept[str(x.device)]


SAME_ANYWHERE: dict[str, Asks] = {
    "kept by the device": _cached,
    "no difference": lambda m, x: x * (2 if str(_weight(m).device) == "nowhere" else 3),
}


@pytest.mark.parametrize("asks", SAME_ANYWHERE)
def test_code_that_does_the_same_on_every_device_has_no_guard_and_can_be_moved(asks: str) -> None:
    model = Asking(SAME_ANYWHERE[asks]).eval()
    patched = inject(model, "eca", input_size=SIZE, init="identity", copy=True)
    assert patched.injection.guards == ()
    x = torch.randn(2, *SIZE)
    assert torch.equal(patched(x), model(x))
    assert patched.to("meta")(x.to("meta")).device.type == "meta"
    assert gates_run(patched, x.to("meta")) == 1


def test_whether_two_are_on_one_device_is_checked_and_stays_so_when_both_move() -> None:
    model = Asking(lambda m, x: x if x.device == _weight(m).device else x.to(_weight(m).device)).eval()
    patched = inject(model, "eca", input_size=SIZE)
    (guard,) = patched.injection.guards
    assert guard.outcome == "True"
    moved = patched.to("meta")
    assert moved(torch.randn(2, *SIZE, device="meta")).device.type == "meta"
    assert gates_run(moved, torch.randn(2, *SIZE, device="meta")) == 1
    with pytest.raises(GuardError, match="came to True, and it comes to False now"):
        moved(torch.randn(2, *SIZE))


def test_autocast_on_the_device_of_what_is_given() -> None:
    def asks(model: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            y = model.stem(x)
        with torch.autocast(device_type=_weight(model).device.type, enabled=False):
            return x + y.float().mean()

    model = Asking(asks).eval()
    patched = inject(model, "eca", input_size=SIZE, init="identity", copy=True)
    x = torch.randn(2, *SIZE)
    assert torch.equal(patched(x), model(x))
