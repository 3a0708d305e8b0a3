"""Inputs as people have them, and which argument of a forward takes which."""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import GuardError, TraceError, attach, find_sites, inject
from attn_inject.tracing.inputs import Inputs, Signature, given_inputs, tensors_in

from .. import toys
from ..toys import conv

IMAGE = torch.zeros(1, 3, 16, 16)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.body = nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16))

    def run(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return x + self.body(x)


class Optional(Residual):
    def forward(self, pixel_values: Any = None, mask: Any = None, **options: Any) -> Any:
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values")
        out = self.run(pixel_values)
        return {"out": out if mask is None else out * mask, "options": len(options)}


class Named(Residual):
    def forward(self, *, image: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.run(image) * scale


class Listed(Residual):
    def forward(self, batch: dict[str, torch.Tensor], views: list[torch.Tensor]) -> list[torch.Tensor]:
        return [self.run(view + batch["image"]) for view in views]


def test_inputs_are_positions_a_tuple_or_names() -> None:
    model = Optional()
    assert given_inputs(model, None) is None
    assert given_inputs(model, IMAGE) == Inputs((IMAGE,))
    assert given_inputs(model, (IMAGE, 1)) == Inputs((IMAGE, 1))
    assert given_inputs(model, {"pixel_values": IMAGE}) == Inputs(named={"pixel_values": IMAGE})
    # Whatever it takes, under any name; but a dict of other words is one value.
    assert given_inputs(model, {"more": 1}) == Inputs(named={"more": 1})
    assert given_inputs(Listed(), {"image": IMAGE}) == Inputs(({"image": IMAGE},))


@pytest.mark.parametrize(
    ("model", "given", "problem"),
    [
        (Listed(), IMAGE, "missing a required argument: 'views'"),
        (Listed(), (IMAGE, [IMAGE], IMAGE), "too many positional arguments"),
        (Listed(), {"batch": IMAGE}, "missing a required argument: 'views'"),
        (Listed(), {"views": [IMAGE], "image": IMAGE}, "missing a required argument: 'batch'"),
        (Named(), (IMAGE,), "too many positional arguments"),
        (Named(), {"image": IMAGE, "size": 3}, "got an unexpected keyword argument 'size'"),
        (Named(), (), "missing a required argument: 'image'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_a_sentence(model: nn.Module, given: Any, problem: str) -> None:
    told = rf"^example_inputs do not fit {type(model).__name__}\.forward\(.*\): {problem}; pass a tuple .* names$"
    for verb in (find_sites, lambda m, **more: inject(m, "eca", **more), lambda m, **more: attach(m, "eca", **more)):
        with pytest.raises(TraceError, match=told):
            verb(model, example_inputs=given)


class Decorated(Residual):
    @staticmethod
    def scaled(forward: Any) -> Any:
        @functools.wraps(forward)
        def run(self: nn.Module, *args: Any, **options: Any) -> Any:
            return forward(self, *args, scale=options.pop("by", 2.0), **options)

        return run

    def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        return self.run(x) * scale


Decorated.forward = Decorated.scaled(Decorated.forward)  # type: ignore[method-assign]


def test_what_a_decorator_gives_need_not_be_given() -> None:
    model = Decorated().eval()
    x = torch.randn(1, 3, 16, 16)
    patched: nn.Module = inject(model, "eca", init="identity", example_inputs=(x,))
    assert torch.equal(patched.eval()(x), model(x))
    with pytest.raises(TraceError, match=r"do not fit Decorated.forward\(x, scale\): too many positional arguments"):
        inject(model, "eca", example_inputs=(x, 1.0, 2.0))


def test_shapes_of_structures() -> None:
    inputs = Inputs(({"a": torch.zeros(2, 3)}, [torch.zeros(4)]), {"c": (torch.zeros(1, 2, 5, 5), 7)})
    assert inputs.shape == (2, 3)
    assert inputs.sizes == "(2, 3), (4,), (1, 2, 5, 5)"
    assert [tuple(tensor.shape) for tensor in inputs.resized(1, 3).tensors] == [(3, 3), (5,), (2, 2, 8, 8)]
    assert all(tensor.is_meta for tensor in inputs.on_meta().tensors)
    assert list(tensors_in([1, "a", None])) == []


@pytest.mark.parametrize(
    ("model", "inputs", "positional", "named", "fixed"),
    [
        (Optional(), None, ["pixel_values"], [], {"mask": None}),
        (Optional(), Inputs((1, 2)), ["pixel_values", "mask"], [], {}),
        (Optional(), Inputs(named={"mask": 1, "pixel_values": 2}), [], ["mask", "pixel_values"], {}),
        (Named(), None, [], ["image"], {"scale": 1.0}),
        (Listed(), None, ["batch", "views"], [], {}),
    ],
)
def test_which_arguments_take_an_input(
    model: nn.Module, inputs: Inputs | None, positional: list[str], named: list[str], fixed: dict[str, Any]
) -> None:
    signature = Signature.of(model.forward, inputs)
    assert [name for name, _ in signature.positional] == positional
    assert [name for name, _ in signature.named] == named
    assert signature.fixed == fixed


@pytest.mark.parametrize(
    ("model", "example_inputs", "call"),
    [
        (Optional(), None, lambda m, x: m(x)["out"]),
        (Optional(), {"pixel_values": IMAGE}, lambda m, x: m(pixel_values=x)["out"]),
        (Optional(), {"pixel_values": IMAGE, "mask": torch.ones(1)}, lambda m, x: m(x, mask=torch.ones(1))["out"]),
        (Named(), None, lambda m, x: m(image=x)),
        (Listed(), ({"image": IMAGE}, [IMAGE, IMAGE]), lambda m, x: torch.cat(m({"image": x}, [x, x]))),
    ],
)
@pytest.mark.slow
def test_patched_models_take_the_inputs_of_the_original(model: nn.Module, example_inputs: Any, call: Any) -> None:
    model.eval()
    options: dict[str, Any] = {"example_inputs": example_inputs} if example_inputs is not None else {"input_size": 16}
    assert [(site.block, site.kind) for site in find_sites(model, **options)] == [("", "residual")] * (
        2 if isinstance(model, Listed) else 1
    )
    image = torch.randn(2, 3, 16, 16)
    plain = inject(model, "se", reduction=4, init="identity", **options).eval()
    assert torch.equal(call(plain, image), call(model, image))
    assert {check.name for check in plain.injection.verification.checks} >= {"trace", "identity"}
    torch.manual_seed(0)
    patched = inject(model, "eca", **options).eval()
    torch.manual_seed(0)
    attached = attach(model, "eca", **options).eval() if not isinstance(model, Listed) else patched
    assert torch.equal(call(attached, image), call(patched, image))
    assert not torch.equal(call(patched, image), call(model, image))


def test_several_inputs_must_be_given() -> None:
    with pytest.raises(TraceError, match=r"takes 2 inputs \(batch, views\): pass example_inputs"):
        find_sites(Listed())


class Heads(nn.Module):
    """Gives what the head of a name makes of its features."""

    def __init__(self) -> None:
        super().__init__()
        self.block = toys.Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))
        self.heads = nn.ModuleDict({"small": nn.Conv2d(16, 2, 1), "large": nn.Conv2d(16, 8, 1)})

    def forward(self, x: torch.Tensor, head: str = "small") -> torch.Tensor:
        assert head in self.heads
        return self.heads[head](self.block(x))


@pytest.mark.parametrize("put", [inject, attach])
@pytest.mark.parametrize("by_name", [False, True])
def test_a_text_is_a_decision(put: Any, by_name: bool) -> None:
    model, x = Heads().eval(), torch.randn(2, 16, 8, 8)
    given = {"x": x, "head": "large"} if by_name else (x, "large")
    patched = put(model, "se", example_inputs=given, reduction=4, init="identity").eval()
    with torch.no_grad():
        assert torch.equal(patched(x, head="large"), model(x, head="large"))
        assert by_name or toys.gates_run(patched, x, "large") == 1
        if put is attach:
            assert torch.equal(patched(x), model(x))
        else:
            with pytest.raises(
                GuardError, match="where the argument head came to large, and this input makes it small"
            ):
                patched(x, head="small")


def test_an_ordered_dict_stays_one() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = toys.Block(toys.SPELLINGS["+"], 8, 8)

        def forward(self, x: torch.Tensor) -> Any:
            return OrderedDict(out=self.block(x), parts=[OrderedDict(x=x), {"x": x}])

    model = Named().eval()
    patched = inject(model, "eca", init="identity", input_size=(8, 8, 8)).eval()
    x = torch.randn(2, 8, 8, 8)
    expected, given = model(x), patched(x)
    assert (type(given), list(given)) == (OrderedDict, ["out", "parts"])
    assert [type(part) for part in given["parts"]] == [OrderedDict, dict]
    assert torch.equal(given["out"], expected["out"])
