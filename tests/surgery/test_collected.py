"""Models whose hooks collect what their forward goes on with, on the model itself or on objects that it holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import attach, find_sites, inject
from tests.toys import Residual


def _block() -> nn.Module:
    return Residual(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))


class Collecting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), _block(), _block())
        self.head = nn.Conv2d(16, 2, 1)
        self.maps: Any = {}
        for number in (1, 2):
            self.net[number].register_forward_hook(self.collecting(number))

    def collecting(self, number: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, out: torch.Tensor) -> None:
            self.maps[number] = out

        return hook

    def collected(self) -> list[torch.Tensor]:
        return [self.maps[1], self.maps[2]]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.net(x)
        return self.head(torch.cat(self.collected(), 1))


class InTheirDict(Collecting):
    def collecting(self, number: int) -> Callable[..., None]:
        maps = self.maps

        def hook(_module: nn.Module, _args: Any, out: torch.Tensor) -> None:
            maps[number] = out

        return hook


class ByAMethod(Collecting):
    def keep(self, module: nn.Module, _args: Any, out: torch.Tensor) -> None:
        self.maps[module.number] = out

    def collecting(self, number: int) -> Callable[..., None]:
        self.net[number].number = number  # type: ignore[assignment]
        return self.keep


class AsAttributes(Collecting):
    def collecting(self, number: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, out: torch.Tensor) -> None:
            setattr(self, f"map{number}", out)

        return hook

    def collected(self) -> list[torch.Tensor]:
        return [getattr(self, f"map{number}") for number in (1, 2)]


class InAList(Collecting):
    def collecting(self, number: int) -> Callable[..., None]:  # in their order
        def hook(_module: nn.Module, _args: Any, out: torch.Tensor) -> None:
            self.maps.append(out)

        return hook

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.maps = []
        return super().forward(x)

    def collected(self) -> list[torch.Tensor]:
        return list(self.maps)


class Cleared(Collecting):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.maps.clear()
        return super().forward(x)


@pytest.mark.parametrize("form", [inject, attach])
@pytest.mark.parametrize("has_run", [False, True])
@pytest.mark.parametrize("kind", [Collecting, InTheirDict, ByAMethod, AsAttributes, InAList, Cleared])
@pytest.mark.slow
def test_what_hooks_collect_is_of_the_pass(kind: type[Collecting], has_run: bool, form: Any) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    if has_run:
        model(torch.randn(1, 3, 8, 8))
    held = dict(model.maps) if isinstance(model.maps, dict) else list(model.maps)
    patched = form(model, "eca", init="identity", example_inputs=torch.randn(1, 3, 8, 8)).eval()
    assert [one.site.block for one in patched.injection.plan.insertions] == ["net.1", "net.2"]
    assert patched.injection.verification.passed
    # What the caller's own hooks have collected stays what they have collected.
    assert model.maps == held
    x = torch.randn(2, 3, 12, 12)
    assert torch.equal(patched(x), model(x))


class Hook:
    """fastai's, in short: what its module gave last."""

    def __init__(self, module: nn.Module) -> None:
        self.stored: Any = None
        self.handle = module.register_forward_hook(self.keep)

    def keep(self, _module: nn.Module, _args: Any, out: torch.Tensor) -> None:
        self.stored = out


class Hooks:
    def __init__(self, *modules: nn.Module) -> None:
        self.hooks = [Hook(module) for module in modules]


class Place:
    stored: Any = None


def _by_a_closure(module: nn.Module) -> Place:
    place = Place()

    def keep(_module: nn.Module, _args: Any, out: torch.Tensor) -> None:
        place.stored = out

    module.register_forward_hook(keep)
    return place


class Decoder(nn.Module):
    def __init__(self, skip: Any) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.mix = nn.Conv2d(16, 8, 3, padding=1)
        self.skip = skip

    def kept(self) -> Any:
        held = self.skip.hooks if isinstance(self.skip, Hooks) else self.skip
        return held[0] if isinstance(held, list) else held

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(torch.cat([self.up(x), self.kept().stored], 1))


class WithHelper(nn.Module):
    """A U-Net whose decoder reads what a helper object has stored."""

    def __init__(self, held: Callable[[nn.Module], Any], *, decides: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.encoder = _block()
        self.down = nn.MaxPool2d(2)
        self.middle = _block()
        self.decoder = Decoder(held(self.encoder))
        self.head = nn.Conv2d(8, 2, 1)
        self.decides = decides

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.decoder(self.middle(self.down(self.encoder(self.stem(x))))))
        # No graph holds what code decides on numbers.
        return 2 * out if self.decides and out.sum() > 1e9 else out


HELD = {
    "an object": Hook,
    "a list of them": lambda module: [Hook(module)],
    "an object with a list of them": Hooks,
    "an object that a closure has": _by_a_closure,
    "that of a layer": lambda block: Hook(block.branch[0]),
}


def _hooks(model: nn.Module) -> list[list[tuple[int, Any]]]:
    return [list(module._forward_hooks.items()) for module in model.modules()]


@pytest.mark.parametrize(("form", "decides"), [(inject, False), (attach, False), (attach, True)])
@pytest.mark.parametrize("ran_on", [None, (1, 3, 8, 8), (3, 3, 16, 16)])
@pytest.mark.parametrize("held", HELD)
@pytest.mark.slow
def test_what_a_helper_of_the_model_stores_is_of_the_pass(
    held: str, ran_on: tuple[int, ...] | None, form: Any, decides: bool
) -> None:
    torch.manual_seed(0)
    model = WithHelper(HELD[held], decides=decides).eval()
    if ran_on is not None:
        model(torch.randn(ran_on))
    stored, hooks, example = model.decoder.kept().stored, _hooks(model), torch.randn(1, 3, 8, 8)
    sites = find_sites(model, example_inputs=example)
    assert [site.block for site in sites] == ["encoder", "middle"]
    # The join with what is stored, and not with a constant.
    assert [(skipped.block, skipped.reason[-2:]) for skipped in sites.skipped] == [("decoder", "M3")]
    patched = form(model, "eca", init="identity", example_inputs=example).eval()
    assert [one.site.block for one in patched.injection.plan.insertions] == ["encoder", "middle"]
    assert patched.injection.verification.passed
    x = torch.randn(2, 3, 12, 12)
    given = patched(x)
    # The caller's own helper has heard nothing of all this.
    assert model.decoder.kept().stored is stored
    assert _hooks(model) == hooks
    assert torch.equal(given, model(x))


@pytest.mark.parametrize("form", [inject, attach])
def test_a_helper_that_the_model_does_not_hold_stores_nothing_of_our_runs(form: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), _block(), nn.Conv2d(8, 2, 1)).eval()
    hooks = [Hook(module) for module in model.modules()]
    x = torch.randn(1, 3, 8, 8)
    patched = form(model, "eca", init="identity", example_inputs=x)
    assert [hook.stored for hook in hooks] == [None] * len(hooks)
    assert torch.equal(patched.eval()(x), model(x))


def test_a_hook_that_keeps_numbers_of_a_pass_is_no_hindrance() -> None:
    model = WithHelper(Hook, decides=False).eval()
    vars(model)["norms"] = norms = {}
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda _module, _args, out, name=name: norms.update({name: float(out.detach().norm())})
        )
    patched = inject(model, "eca", init="identity", example_inputs=torch.randn(1, 3, 8, 8)).eval()
    assert norms == {}
    x = torch.randn(2, 3, 12, 12)
    assert torch.equal(patched(x), model(x))
