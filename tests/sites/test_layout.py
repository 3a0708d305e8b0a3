"""The channel axis after every kind of step, rule by rule of `layout`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_inject import find_sites

from ..toys import conv
from .graphs import Net, Pair, Read, read

Run = Callable[[Net, torch.Tensor], Any]


def _axis(run: Run, shape: tuple[int, ...] = (2, 6, 10, 12), **layers: nn.Module | torch.Tensor) -> int | None:
    net = read(Net(run, **layers), shape)
    return net.axes[net.last]


def test_an_input_has_its_channels_first() -> None:
    net = read(Net(lambda m, x: x), (2, 6, 10, 12))
    assert net.axes[net["x"]] == 1


# Rule 1: these put the channels at axis 1, even where they were known to be elsewhere.
FIRST: dict[str, tuple[Run, dict[str, Any]]] = {
    "convolution": (lambda m, x: m.a(x), {"a": conv(12, 6)}),
    "transposed convolution": (lambda m, x: m.a(x), {"a": nn.ConvTranspose2d(12, 6, 2)}),
    "sequence with a convolution": (lambda m, x: m.a(x), {"a": nn.utils.parametrizations.weight_norm(conv(12, 6))}),
    "batch norm": (lambda m, x: m.a(x), {"a": nn.BatchNorm2d(12)}),
    "group norm": (lambda m, x: m.a(x), {"a": nn.GroupNorm(3, 12)}),
    "max pool": (lambda m, x: m.a(x), {"a": nn.MaxPool2d(2)}),
    "mean pool": (lambda m, x: m.a(x), {"a": nn.AvgPool2d(2)}),
    "adaptive mean pool": (lambda m, x: m.a(x), {"a": nn.AdaptiveAvgPool2d(2)}),
    "adaptive max pool": (lambda m, x: m.a(x), {"a": nn.AdaptiveMaxPool2d(2)}),
    "conv2d": (lambda m, x: F.conv2d(x, m.w), {"w": torch.zeros(6, 12, 3, 3)}),
    "conv1d": (lambda m, x: F.conv1d(x.flatten(2), m.w), {"w": torch.zeros(6, 12, 3)}),
    "conv3d": (lambda m, x: F.conv3d(x.unsqueeze(2), m.w), {"w": torch.zeros(6, 12, 1, 3, 3)}),
    "conv_transpose2d": (lambda m, x: F.conv_transpose2d(x, m.w), {"w": torch.zeros(12, 6, 3, 3)}),
    "batch_norm": (lambda m, x: F.batch_norm(x, None, None, m.w, m.w, True), {"w": torch.zeros(12)}),
    "group_norm": (lambda m, x: F.group_norm(x, 3), {}),
}


@pytest.mark.parametrize("name", FIRST)
def test_layers_that_put_channels_first(name: str) -> None:
    run, layers = FIRST[name]
    # Before the layer, the channels were known to stand last.
    assert _axis(lambda m, x: run(m, x.transpose(1, 3)), (2, 10, 10, 12), **layers) == 1


@pytest.mark.parametrize(
    ("run", "axis"),
    [
        (lambda m, x: F.relu(x.transpose(1, 3)), 3),
        (lambda m, x: m.activation(x.transpose(1, 3)), 3),
        (lambda m, x: m.layer_norm(x.transpose(1, 3)), 3),
        (lambda m, x: F.layer_norm(x.transpose(1, 3), (6,)), 3),
        (lambda m, x: m.layer_norm(x.transpose(1, 3).transpose(1, 2)), 3),
    ],
)
def test_layers_that_leave_channels_where_they_are(run: Run, axis: int | None) -> None:
    assert _axis(run, activation=nn.ReLU(), layer_norm=nn.LayerNorm(6)) == axis


# Rule 2: the ways to move axes. The input is (N, 6, 10, 12).
MOVED: dict[str, tuple[Run, int | None]] = {
    "permute": (lambda m, x: x.permute(0, 2, 3, 1), 3),
    "permute, a tuple": (lambda m, x: x.permute((0, 2, 3, 1)), 3),
    "permute, a list": (lambda m, x: x.permute([0, 2, 1, 3]), 2),
    "permute, negative": (lambda m, x: x.permute(0, -2, -3, -1), 2),
    "permute, by keyword": (lambda m, x: x.permute(dims=(0, 2, 3, 1)), 3),
    "permute, batch moved": (lambda m, x: x.permute(1, 0, 2, 3), 0),
    "torch.permute": (lambda m, x: torch.permute(x, (2, 0, 3, 1)), 3),
    "torch.permute, by keyword": (lambda m, x: torch.permute(input=x, dims=(0, 2, 3, 1)), 3),
    "transpose": (lambda m, x: x.transpose(1, 2), 2),
    "transpose, other way round": (lambda m, x: x.transpose(3, 1), 3),
    "transpose, negative": (lambda m, x: x.transpose(1, -1), 3),
    "transpose, both negative": (lambda m, x: x.transpose(-3, -2), 2),
    "transpose, by keyword": (lambda m, x: x.transpose(dim0=1, dim1=3), 3),
    "transpose, of others": (lambda m, x: x.transpose(2, 3), 1),
    "torch.transpose": (lambda m, x: torch.transpose(x, 1, 2), 2),
    "torch.transpose, by keyword": (lambda m, x: torch.transpose(input=x, dim0=1, dim1=-1), 3),
    "swapaxes": (lambda m, x: x.swapaxes(1, 3), 3),
    "torch.swapaxes": (lambda m, x: torch.swapaxes(x, axis0=1, axis1=2), 2),
    "movedim": (lambda m, x: x.movedim(1, 3), 3),
    "movedim, back": (lambda m, x: x.movedim(3, 1), 2),
    "movedim, negative": (lambda m, x: x.movedim(1, -1), 3),
    "movedim, by keyword": (lambda m, x: x.movedim(source=1, destination=-1), 3),
    "movedim, past": (lambda m, x: x.movedim(0, 2), 0),
    "moveaxis": (lambda m, x: torch.moveaxis(x, 1, -1), 3),
    "movedim of several": (lambda m, x: x.movedim((1, 2), (2, 3)), None),
    "an axis that is computed": (lambda m, x: x.transpose(1, x.dim() - 1), None),
    "and back": (lambda m, x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2), 1),
}


@pytest.mark.parametrize("name", MOVED)
def test_moved_axes(name: str) -> None:
    run, axis = MOVED[name]
    assert _axis(run) == axis


RESHAPED: dict[str, tuple[Run, int | None]] = {
    "flatten": (lambda m, x: x.flatten(2), 1),
    "flatten of the positions in front": (lambda m, x: x.permute(0, 2, 3, 1).flatten(1, 2), 2),
    "flatten over the channels": (lambda m, x: x.flatten(1), None),
    "nn.Flatten": (lambda m, x: m.flat(x), None),
    "view": (lambda m, x: x.view(2, 6, 120), 1),
    "view, channels split": (lambda m, x: x.view(2, 2, 3, 10, 12), None),
    "reshape, same shape": (lambda m, x: x.reshape(2, 6, 10, 12), 1),
    "reshape, same rank": (lambda m, x: x.reshape(2, 6, 12, 10), 1),
    "reshape, another extent": (lambda m, x: x.reshape(2, 60, 1, 12), None),
    # The extent stays by chance, but other numbers stand in front of it.
    "reshape, a chance": (lambda m, x: x.reshape(4, 6, 5, 12), None),
    "reshape, channels last": (lambda m, x: x.permute(0, 2, 3, 1).reshape(2, 120, 6), 2),
    "unflatten": (lambda m, x: x.flatten(2).unflatten(2, (10, 12)), 1),
    "unsqueeze": (lambda m, x: x.unsqueeze(1), 2),
    "squeeze": (lambda m, x: x[:, :, :1].squeeze(2), 1),
    "expand": (lambda m, x: x.mean((2, 3), keepdim=True).expand(-1, -1, 5, 5), 1),
    "slice of the channels": (lambda m, x: x[:, :3], 1),
    "mean over the positions": (lambda m, x: x.mean((2, 3)), 1),
    "mean over the channels": (lambda m, x: x.mean(1), None),
    "a method that changes the extent": (lambda m, x: x.repeat(1, 2, 1, 1), 1),
    "a function that changes the extent": (lambda m, x: F.pad(x, (0, 0, 0, 0, 1, 1)), None),
    "a function that changes another": (lambda m, x: F.pad(x, (1, 1)), 1),
    "concat": (lambda m, x: torch.cat([x, x.relu()], 1), 1),
    "contiguous": (lambda m, x: x.permute(0, 2, 3, 1).contiguous(), 3),
}


@pytest.mark.parametrize("name", RESHAPED)
def test_reshaped(name: str) -> None:
    run, axis = RESHAPED[name]
    assert _axis(run, flat=nn.Flatten()) == axis


# Rule 6, and the axis that `unflatten` divides.
COME_AND_GONE: dict[str, tuple[Run, int | None]] = {
    "stack in front": (lambda m, x: torch.stack([x, x.relu()], 1), 2),
    "stack behind": (lambda m, x: torch.stack([x, x.relu()], 2), 1),
    "stack, counted from behind": (lambda m, x: torch.stack([x, x.relu()], dim=-1), 1),
    "stack of a part that is unknown": (lambda m, x: torch.stack([x @ x.transpose(2, 3) @ x, x]), 2),
    "stack and sum": (lambda m, x: torch.stack([x, x.relu()], 1).sum(1), 1),
    "stack and sum, counted from behind": (lambda m, x: torch.stack([x, x.relu()], -1).sum(dim=-1), 1),
    "stack and mean": (lambda m, x: torch.stack([x, x.relu()]).mean(dim=0), 1),
    "stack and greatest": (lambda m, x: torch.stack([x, x.relu()], 2).amax(2), 1),
    "sum of the stacked channels": (lambda m, x: torch.stack([x, x.relu()]).sum(2), None),
    "sum that keeps the axis": (lambda m, x: torch.stack([x, x.relu()]).sum(0, keepdim=True), 2),
    "an index": (lambda m, x: torch.stack([x, x.relu()], 1)[:, 0], 1),
    "an index behind": (lambda m, x: torch.stack([x, x.relu()], -1)[..., 0], 1),
    "an index of the channels": (lambda m, x: x[:, 0], None),
    "an index that adds an axis": (lambda m, x: x[:, None, 0], None),
    "an index that adds an axis in front": (lambda m, x: x[:, None, :, 0], 2),
    "an index by a list": (lambda m, x: torch.stack([x, x.relu()])[:, [0], 0], None),
    "select": (lambda m, x: torch.stack([x, x.relu()], 1).select(1, 0), 1),
    "unflatten and sum": (lambda m, x: x.unflatten(1, (2, 3)).sum(1), 1),
    "unflatten and sum over the channels": (lambda m, x: x.unflatten(1, (2, 3)).sum(2), None),
    "unflatten of positions": (lambda m, x: x.unflatten(3, (3, 4)), 1),
    "unflatten in front": (lambda m, x: x.permute(0, 2, 3, 1).unflatten(1, (2, 5)), 4),
    "concat after a part that is unknown": (lambda m, x: torch.cat([x @ x.transpose(2, 3) @ x, x], 1), 1),
}


@pytest.mark.parametrize("name", COME_AND_GONE)
def test_axes_that_come_and_go(name: str) -> None:
    run, axis = COME_AND_GONE[name]
    assert _axis(run) == axis


# Rule 3.
@pytest.mark.parametrize(
    ("run", "axis"),
    [
        (lambda m, x: m.fc(x.permute(0, 2, 3, 1)), 3),
        (lambda m, x: F.linear(x.permute(0, 2, 3, 1), m.fc.weight), 3),
        (lambda m, x: m.fc(x.flatten(2).transpose(1, 2)), 2),
        (lambda m, x: m.fc(x.mean((2, 3))), None),
        (lambda m, x: m.fc(torch.matmul(x.permute(0, 2, 3, 1), x.permute(0, 2, 1, 3))[..., :6]), 3),
    ],
)
def test_a_linear_layer_puts_channels_last(run: Run, axis: int | None) -> None:
    assert _axis(run, fc=nn.Linear(6, 5)) == axis


def test_a_linear_layer_of_the_same_width_keeps_the_axis_of_a_vector() -> None:
    assert _axis(lambda m, x: m.fc(x.mean((2, 3))), fc=nn.Linear(6, 6)) == 1


# Rule 4.
MIXING: dict[str, Run] = {
    "matmul": lambda m, x: torch.matmul(x, x.transpose(2, 3)),
    "@": lambda m, x: x @ x.transpose(2, 3),
    "bmm": lambda m, x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)),
    "baddbmm": lambda m, x: torch.baddbmm(x[:, :, 0, :6], x.flatten(2), x.flatten(2).transpose(1, 2)),
    "einsum": lambda m, x: torch.einsum("nchw,ncvw->nchv", x, x),
    "attention": lambda m, x: F.scaled_dot_product_attention(x, x, x),
    "method": lambda m, x: x.matmul(x.transpose(2, 3)),
    "__matmul__": lambda m, x: x.__matmul__(x.transpose(2, 3)),
    "and what follows": lambda m, x: torch.relu(torch.matmul(x, x.transpose(2, 3))),
}


@pytest.mark.parametrize(
    ("run", "axis"),
    [
        (lambda m, x: torch.einsum("nchw,c->nchw", x, x.new_ones(6)), 1),
        (lambda m, x: torch.einsum("c, n h w c -> n h w c", x.new_ones(6), x.permute(0, 2, 3, 1)), 3),
        (lambda m, x: torch.einsum("nchw,nc->nchw", [x, x.mean((2, 3))]), 1),
        (lambda m, x: torch.einsum("nc...,c->nc...", x, x.new_ones(6)), 1),
        (lambda m, x: torch.einsum("nchw,ck->nkhw", x, x.new_ones(6, 6)), None),
        (lambda m, x: torch.einsum("nchw,c", x, x.new_ones(6)), None),
    ],
)
def test_an_einsum_that_scales_one_value_has_its_axis(run: Run, axis: int | None) -> None:
    assert _axis(run) == axis


@pytest.mark.parametrize("name", MIXING)
def test_products_of_values_leave_the_axis_unknown(name: str) -> None:
    # The first extent of every product is the channels' still.
    assert _axis(MIXING[name]) is None


def test_a_convolution_after_a_product_tells_the_axis_again() -> None:
    assert _axis(lambda m, x: m.a(torch.matmul(x, x.transpose(2, 3))), a=conv(6, 4)) == 1


def test_channels_of_a_batch_that_was_folded_into_them() -> None:
    def by_image(m: Net, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        kernels = x.mean((2, 3)).view(n, 1, c, 1, 1) * m.w
        out = F.conv2d(x.reshape(1, n * c, h, w), kernels.reshape(-1, c, 3, 3), padding=1, groups=n)
        return out.reshape(n, -1, h, w)

    assert _axis(by_image, w=torch.zeros(8, 6, 3, 3)) == 1
    assert _axis(by_image, (3, 6, 10, 12), w=torch.zeros(8, 6, 3, 3)) == 1
    assert _axis(lambda m, x: m.a(x).reshape(2, 6, 120, 1), (1, 12, 10, 12), a=conv(12, 12)) is None


# Rule 5.
@pytest.mark.parametrize(
    ("run", "axis"),
    [
        (lambda m, x: x.chunk(2, 1)[1], 1),
        (lambda m, x: torch.split(x, [2, 4], 1)[0], 1),
        (lambda m, x: x.permute(0, 2, 3, 1).chunk(2, -1)[0], 3),
        (lambda m, x: x.unbind(3)[0], 1),
        (lambda m, x: x.permute(0, 2, 3, 1).unbind(1)[0], 2),
        (lambda m, x: x.unbind(1)[0], None),
        (lambda m, x: torch.stack([x, x.relu()]).unbind()[1], 1),
        (lambda m, x: x.unflatten(1, (2, 3)).unbind(1)[0], 1),
        (lambda m, x: torch.cat(x.split(3, 1)[::-1], 1), 1),
        (lambda m, x: torch.topk(x, 2, 3)[0], None),
        (lambda m, x: F.max_pool2d(x, 2, return_indices=True)[0], 1),
        (lambda m, x: (x * 2, 3)[0], 1),
        (lambda m, x: F.glu(x, 1), 1),
        (lambda m, x: F.glu(x.permute(0, 2, 3, 1)), 3),
        (lambda m, x: F.glu(x, 2), 1),
    ],
)
def test_items_of_tuples(run: Run, axis: int | None) -> None:
    assert _axis(run) == axis


def test_a_gated_linear_unit_that_is_a_layer_keeps_the_axis() -> None:
    assert _axis(lambda m, x: m.a(x), a=nn.GLU(1)) == 1
    assert _axis(lambda m, x: m.a(x), a=nn.GLU(3)) == 1
    assert _axis(lambda m, x: m.a(x.permute(0, 2, 3, 1)), a=nn.GLU()) == 3


def test_a_tuple_of_slices_has_the_axis_of_its_items() -> None:
    net = read(Net(lambda m, x: x.chunk(2, 1)[1]), (2, 6, 10, 12))
    assert net.axes[net["chunk"]] == 1
    net = read(Net(lambda m, x: torch.topk(x, 2, 3)[0]), (2, 6, 10, 12))
    assert net.axes[net["topk"]] is None


def test_what_follows_the_first_of_two_inputs() -> None:
    net: Read = read(Pair(lambda m, x, y: x.transpose(1, 3) + y), (2, 6, 10, 12), (2, 12, 10, 6))
    assert net.axes[net.last] == 3


@pytest.mark.parametrize(
    "run", [lambda m, x: [m.a(x).argmax(1)], lambda m, x: x.new_zeros(3), lambda m, x: m.a(x).argmax()]
)
def test_outputs_that_hang_on_no_map_have_no_axis(run: Run) -> None:
    net = read(Net(run, a=conv(6, 6)), (2, 6, 10, 12))
    assert net.axes.get(net.output) is None


def test_weights_have_no_axis_in_the_table() -> None:
    net = read(Net(lambda m, x: x * m.scale, scale=torch.ones(1)), (2, 6, 10, 12))
    assert net["scale"] not in net.axes
    assert net.axes[net["mul"]] == 1


@pytest.mark.parametrize(
    ("run", "axis"),
    [
        # A norm over parts of a batch, which are channels for it.
        (lambda m, x: torch.tanh(F.batch_norm(x.view(1, 12, 10, 12), None, None, training=True)).view(2, 6, 10, 12), 1),
        (lambda m, x: (x.reshape(12, -1) - 1).reshape(2, 6, 10, 12), 1),
        (lambda m, x: (x.permute(0, 2, 3, 1).reshape(4, -1) * 2).view(2, 10, 12, 6), 3),
        # Put together in another order, or of mixed parts.
        (lambda m, x: x.view(2, 12, 10, 6).transpose(1, 2).contiguous().view(2, 6, 10, 12), None),
        (lambda m, x: (x.view(24, 60) @ m.w).view(2, 6, 10, 12), None),
        (lambda m, x: torch.tanh(x.view(1, 12, 10, 12)).view(4, 3, 10, 12), None),
    ],
)
def test_a_reshape_that_undoes_an_earlier_one_has_the_axis_from_before(run: Run, axis: int | None) -> None:
    assert _axis(run, w=torch.ones(60, 60)) == axis


@pytest.mark.parametrize(
    ("run", "axis"),
    [
        (lambda m, x: x.view(2, 2, 3, 10, 12).transpose(1, 2).reshape(2, 6, 10, 12), 1),
        (lambda m, x: x.reshape(2, 2, 3, 10, 12).permute(0, 2, 1, 3, 4).contiguous().view(2, 6, 10, 12), 1),
        (lambda m, x: x.unflatten(1, (3, 2)).swapaxes(1, 2).flatten(1, 2), 1),
        (lambda m, x: x.permute(0, 2, 3, 1).unflatten(3, (3, 2)).transpose(3, 4).flatten(3), 3),
        # Parts of the batch, or of the height, among the channels.
        (lambda m, x: x.view(2, 2, 3, 10, 12).transpose(0, 1).reshape(2, 6, 10, 12), None),
        (lambda m, x: x.view(2, 6, 2, 5, 12).transpose(1, 3).reshape(2, 6, 10, 12), None),
        (lambda m, x: x.view(2, 2, 3, 10, 12).transpose(2, 4).reshape(2, 6, 10, 12), None),
    ],
)
def test_channels_that_are_shuffled_stay_where_they_are(run: Run, axis: int | None) -> None:
    assert _axis(lambda m, x: run(m, m.a(x)), (2, 4, 10, 12), a=conv(4, 6)) == axis


def test_a_branch_that_ends_in_a_shuffle_is_gated_behind_it() -> None:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        y = m.b(torch.relu(m.a(x)))
        return m.end(x + y.view(len(x), 4, 4, *y.shape[2:]).transpose(1, 2).reshape(x.shape))

    (site,) = find_sites(Net(run, a=conv(16, 16), b=conv(16, 16), end=conv(16, 16)), input_size=(16, 8, 8))
    assert (site.node, site.channels, site.layout) == ("reshape", 16, "channels_first")
