"""Gates as factors of the layer before: which layers take them, on which axis, and that the outputs stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers.norm import LayerNorm2d
from torch import nn

from attn_inject import InjectedModule, inject, load, save
from attn_inject.surgery.constants import layer_before, with_constants
from tests.toys import Lambda, conv

WIDTH = 8
FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)
Body = Callable[[Any, torch.Tensor], torch.Tensor]


def norm(width: int = WIDTH, **options: Any) -> nn.LayerNorm:
    """With weights that do something: with fresh ones a factor too many goes unseen."""
    made = nn.LayerNorm(width, **options)
    for parameter in made.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return made


def net(body: Body, **modules: nn.Module) -> nn.Module:
    """x + body(x), on maps as large along one axis as there are channels, so that a factor on a wrong axis fits."""
    torch.manual_seed(0)
    parts = {"first": conv(WIDTH, WIDTH), **modules}
    return Lambda(lambda m, x: x + body(m, torch.relu(m.first(x))), **parts).double().eval()


def folded(model: nn.Module) -> tuple[InjectedModule, Any, torch.Tensor]:
    """(with a constant gate, with that as factors of a layer, the factors)."""
    patched = inject(model, "se", reduction=2, bias=True, input_size=(WIDTH, 6, WIDTH)).eval()
    (insertion,) = patched.injection.plan.insertions
    gate = patched.get_submodule(insertion.module)
    nn.init.zeros_(gate.fc2.weight)
    nn.init.normal_(gate.fc2.bias)
    weights = torch.sigmoid(gate.fc2.bias.detach())
    return patched, with_constants(patched, {insertion.module: weights}), weights


def rows(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.norm(x.permute(LAST)).permute(FIRST)


def torch_permutes(m: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.permute(m.norm(torch.permute(x, LAST)), (0, -1, 1, 2))


def as_function(m: Any, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x.permute(*LAST), (WIDTH,), m.norm.weight, bias=m.norm.bias).permute(*FIRST)


def groups(m: Any, x: torch.Tensor) -> torch.Tensor:
    return F.group_norm(x, 2, m.norm.weight, m.norm.bias)


TAKEN: dict[str, tuple[Body, dict[str, nn.Module], str]] = {
    "layer norm and a permute": (rows, {"norm": norm()}, "norm"),
    "layer norm without a bias": (rows, {"norm": norm(bias=False)}, "norm"),
    "torch.permute": (torch_permutes, {"norm": norm()}, "norm"),
    "layer norm as a function": (as_function, {"norm": norm()}, "norm"),
    "timm's LayerNorm2d": (lambda m, x: m.norm(x), {"norm": LayerNorm2d(WIDTH)}, "norm"),
    "group norm as a function": (groups, {"norm": nn.GroupNorm(2, WIDTH)}, "norm"),
    "convolution as a function": (lambda m, x: F.conv2d(x, m.b.weight, m.b.bias), {"b": conv(WIDTH, WIDTH, 1)}, "b"),
    "linear of rows": (lambda m, x: m.b(x.permute(LAST)).permute(FIRST), {"b": nn.Linear(WIDTH, WIDTH)}, "b"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_constant_gate_becomes_factors_of_the_layer_before(name: str) -> None:
    body, modules, layer = TAKEN[name]
    patched, made, weights = folded(net(body, **modules))
    (insertion,) = patched.injection.plan.insertions
    assert layer_before(patched, insertion).path == layer
    assert made.injection.plan.insertions == ()
    held, kept = made.get_submodule(layer).weight, patched.get_submodule(layer).weight
    torch.testing.assert_close(held, kept * weights.reshape(-1, *(1,) * (kept.dim() - 1)))
    x = torch.randn(2, WIDTH, 6, WIDTH, dtype=torch.float64)
    for mode in (True, False):
        torch.testing.assert_close(made.train(mode)(x), patched.train(mode)(x), rtol=1e-12, atol=1e-12)
    assert float((made(x) - x).detach().abs().max()) > 0.1


def test_rows_that_are_added_as_rows() -> None:
    """The attention's own permutes stand around it, and none of the model's."""
    torch.manual_seed(0)
    parts = {"mix": nn.Linear(WIDTH, WIDTH), "first": conv(WIDTH, WIDTH), "norm": norm()}

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        rows = x.permute(LAST)
        return (rows + m.norm(m.mix(torch.relu(m.first(x)).permute(LAST)))).permute(FIRST)

    patched, made, _ = folded(Lambda(run, **parts).double().eval())
    assert layer_before(patched, patched.injection.plan.insertions[0]).path == "norm"
    x = torch.randn(2, WIDTH, 6, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(made(x), patched(x), rtol=1e-12, atol=1e-12)


def over_the_width(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.norm(x)


def over_two_axes(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.norm(x.permute(0, 2, 3, 1)).permute(FIRST)


def computed(m: Any, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x.permute(LAST), (WIDTH,), 2 * m.norm.weight, m.norm.bias).permute(FIRST)


def weights_read(m: Any, x: torch.Tensor) -> torch.Tensor:
    return rows(m, x * m.norm.weight.mean())


def twice_as_a_function(m: Any, x: torch.Tensor) -> torch.Tensor:
    return as_function(m, m.first(as_function(m, x)))


REFUSED: dict[str, tuple[Body, dict[str, nn.Module], str]] = {
    "another axis": (over_the_width, {"norm": norm()}, "no norm or convolution alone"),
    "two axes": (over_two_axes, {"norm": norm((WIDTH, WIDTH))}, "over more than the channels"),
    "no weights": (rows, {"norm": nn.LayerNorm(WIDTH, elementwise_affine=False)}, "has no weights"),
    "no weights as a function": (
        lambda m, x: F.layer_norm(x.permute(LAST), (WIDTH,)).permute(FIRST), {}, "has no weights",
    ),
    "computed weights": (computed, {"norm": norm()}, "or computes them"),
    "weights read elsewhere": (weights_read, {"norm": norm()}, "is read elsewhere too"),
    "the same weights twice": (twice_as_a_function, {"norm": norm()}, "is read elsewhere too"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_only_looks_like_such_a_layer_is_refused(name: str) -> None:
    body, modules, reason = REFUSED[name]
    patched = inject(net(body, **modules), "se", reduction=2, input_size=(WIDTH, WIDTH, WIDTH))
    with pytest.raises(LookupError, match=reason):
        layer_before(patched, patched.injection.plan.insertions[0])


def test_rows_that_are_read_before_their_permute_are_refused() -> None:
    torch.manual_seed(0)

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        made = m.norm(torch.relu(m.first(x)).permute(LAST))
        return (x + made.permute(FIRST)) * made.mean()

    patched = inject(Lambda(run, first=conv(WIDTH, WIDTH), norm=norm()), "se", reduction=2, input_size=(WIDTH, 6, 6))
    with pytest.raises(LookupError, match="is read elsewhere too"):
        layer_before(patched, patched.injection.plan.insertions[0])


def test_biases_and_names_that_are_shared_are_refused() -> None:
    model = net(rows, norm=norm(), other=norm())
    model.other.bias = model.norm.bias
    patched = inject(model, "se", reduction=2, input_size=(WIDTH, 6, WIDTH))
    with pytest.raises(LookupError, match="shares its weights"):
        layer_before(patched, patched.injection.plan.insertions[0])


def test_a_norm_of_rows_comes_back_from_a_file(tmp_path: Any) -> None:
    model = net(rows, norm=norm())
    _, made, _ = folded(model)
    save(made, tmp_path / "net.pt")
    x = torch.randn(2, WIDTH, 6, WIDTH, dtype=torch.float64)
    assert torch.equal(load(tmp_path / "net.pt", model).eval()(x), made.eval()(x))
