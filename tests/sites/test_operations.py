"""What a node does, told from its name or from its module: every name and every kind of module."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from torch import fx, nn
from torch.ao.quantization import QuantStub

from attn_inject.sites.operations import Operations, axes_of, axis_of, is_map, name_of, parts_of
from attn_inject.sites.vocabulary import DROPS
from attn_inject.tracing.nodes import set_value

MAP = torch.empty(2, 4, 8, 8, device="meta")


def named(name: str) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any: ...

    function.__name__ = name
    return function


class Graph:
    """A graph of nodes that are put in by hand, each with its value."""

    def __init__(self, root: nn.Module | None = None) -> None:
        self.root, self.graph = root or nn.Module(), fx.Graph()

    def put(self, op: str, target: Any, *args: Any, value: Any = MAP, **kwargs: Any) -> fx.Node:
        node = self.graph.create_node(op, target, args, kwargs)
        set_value(node, value)
        return node

    def input(self) -> fx.Node:
        return self.put("placeholder", "x")

    def call(self, name: str, *args: Any, value: Any = MAP, **kwargs: Any) -> fx.Node:
        return self.put("call_function", named(name), *args, value=value, **kwargs)

    @property
    def operations(self) -> Operations:
        return Operations(self.root, self.graph)


TRAITS = {
    "affine": lambda operations, node: not operations.is_nonlinear(node),
    "convolution": Operations.holds_convolution,
    "upsampling": Operations.upsamples,
    "addition": Operations.is_addition,
    "multiplication": Operations.is_multiplication,
    "concatenation": Operations.is_concatenation,
    "slice": Operations.is_slice,
    "gain": Operations.is_gain,
    "rearrangement": Operations.is_rearrangement,
}


def traits(operations: Operations, node: fx.Node) -> set[str]:
    return {name for name, holds in TRAITS.items() if holds(operations, node)}


# Traits of a function of one map, and the names that have exactly these.
FUNCTIONS = {
    "affine convolution": "conv1d conv2d conv3d convolution _conv_forward deform_conv2d",
    "affine convolution upsampling": "conv_transpose1d conv_transpose2d conv_transpose3d",
    "affine upsampling": "interpolate upsample upsample_bilinear upsample_nearest pixel_shuffle grid_sample",
    "affine addition": "add add_ iadd __add__ __iadd__ __radd__",
    "affine concatenation": "cat concat concatenate",
    "affine gain": """dropout dropout_ dropout1d dropout2d dropout3d alpha_dropout feature_dropout stochastic_depth
        drop_block2d drop_block3d drop_path drop_block_2d drop_block_fast_2d div div_ truediv itruediv divide
        true_divide""",
    "affine gain multiplication": "mul mul_ imul multiply multiply_ __mul__ __imul__ __rmul__",
    "affine rearrangement": """permute transpose swapaxes movedim moveaxis contiguous to type_as float clone view
        reshape flatten unflatten squeeze unsqueeze expand roll detach requires_grad_ t view_as reshape_as expand_as
        broadcast_to type half bfloat16 double rearrange alias as_tensor asarray""",
    "affine slice": """getitem __getitem__ chunk split narrow tensor_split unbind select index_select""",
    "affine": """sub sub_ isub neg linear addmm batch_norm layer_norm group_norm instance_norm rms_norm
        local_response_norm normalize avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
        adaptive_avg_pool3d max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d
        adaptive_max_pool3d lp_pool2d pad pixel_unshuffle channel_shuffle mean sum stack zeros_pad unfold fold
        avg_pool2d_same flip bias_add index_assign fake_quantize_per_tensor_affine quantize_per_tensor dequantize
        repeat index_put identity""",
    "": "relu relu_ sigmoid silu gelu softmax pow sqrt exp abs matmul bmm einsum max scaled_dot_product_attention own",
}
SHAPE_ONLY = """size dim ndimension numel new_empty new_zeros new_ones new_full new_tensor zeros_like ones_like
    empty_like rand_like randn_like full_like is_floating_point get_device _assert len _has_torch_function eq
    isinstance"""


@pytest.mark.parametrize(
    ("expected", "name"), [(words, name) for words in FUNCTIONS for name in FUNCTIONS[words].split()]
)
def test_functions_and_methods_of_one_map(expected: str, name: str) -> None:
    graph = Graph()
    x = graph.input()
    function, method = graph.call(name, x), graph.put("call_method", name, x)
    operations = graph.operations
    assert traits(operations, function) == set(expected.split())
    # A convolution or a concat is no method of a tensor.
    assert traits(operations, method) == set(expected.split()) - {"convolution", "concatenation"}


def test_drops_are_gains_that_change_no_shape() -> None:
    assert {name for name in FUNCTIONS["affine gain"].split() if "div" not in name} == DROPS


@pytest.mark.parametrize("name", SHAPE_ONLY.split())
@pytest.mark.parametrize("op", ["call_function", "call_method"])
def test_what_only_looks_at_the_shape_carries_nothing(op: str, name: str) -> None:
    graph = Graph()
    x = graph.input()
    node = graph.put(op, name if op == "call_method" else named(name), x)
    after = graph.call("add", x, node)
    assert [graph.operations.carries[n] for n in (x, node, after)] == [True, False, True]
    assert graph.operations.sources(after) == [x]


def test_a_module_of_such_a_name_carries_its_input_on() -> None:
    graph = Graph(nn.ModuleDict({"size": nn.ReLU()}))
    assert graph.operations.carries == {}
    node = graph.put("call_module", "size", graph.input())
    assert graph.operations.carries[node]


@pytest.mark.parametrize(
    ("value", "carries"),
    [
        (MAP, True),
        (MAP.half(), True),
        (MAP.to(torch.complex64), True),
        # What data decide: `embedding(x.argmax(1))` goes on from x.
        (MAP.long(), True),
        (MAP > 0, True),
        (7, False),
        (None, False),
        ((1, MAP), True),
        ([MAP.long(), [MAP]], True),
        ({"map": MAP}, True),
        ({"index": MAP.long()}, True),
        ({"index": 3}, False),
        ((1, 2), False),
    ],
)
def test_what_carries_the_data_on(value: Any, carries: bool) -> None:
    graph = Graph()
    x = graph.input()
    node = graph.call("own", x, value=value)
    assert graph.operations.carries[node] is carries


def test_weights_and_what_is_made_of_them_carry_nothing_and_the_output_does() -> None:
    graph = Graph()
    x = graph.input()
    weight = graph.put("get_attr", "weight")
    doubled = graph.call("mul", weight, 2.0)
    output = graph.put("output", "output", x, value=None)
    operations = graph.operations
    assert [operations.carries[n] for n in (weight, doubled, output)] == [False, False, True]
    assert not operations.is_nonlinear(x)
    assert not operations.is_nonlinear(output)
    assert traits(operations, weight) == set()


PRODUCTS = ("mul", "mul_", "imul", "multiply", "multiply_", "__mul__", "__imul__", "__rmul__", "div", "truediv")


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_of_two_values_is_nonlinear(name: str) -> None:
    graph = Graph()
    x = graph.input()
    y, weight = graph.call("neg", x), graph.put("get_attr", "weight")
    division = name in ("div", "truediv")
    linear = [graph.call(name, x, weight), graph.call(name, x, 2.0)]
    bent = [graph.call(name, x, y), graph.call(name, x, x)]
    # A product scales whichever side it has first; a quotient scales only what it divides.
    (bent if division else linear).extend([graph.call(name, weight, x), graph.call(name, 2.0, x)])
    (bent if division else linear).append(graph.call(name, input=x, other=2.0))
    operations = graph.operations
    assert [operations.is_nonlinear(node) for node in linear] == [False] * len(linear)
    assert [operations.is_gain(node) for node in linear] == [True] * len(linear)
    assert [operations.is_nonlinear(node) for node in bent] == [True] * len(bent)
    assert [operations.is_gain(node) for node in bent] == [False] * len(bent)
    assert [operations.is_multiplication(node) for node in linear + bent] == [not division] * 7


def test_a_product_of_weights_is_linear() -> None:
    graph = Graph()
    product = graph.call("mul", graph.put("get_attr", "a"), graph.put("get_attr", "b"))
    assert not graph.operations.is_nonlinear(product)


def test_the_builtin_sum_starts_with_nought() -> None:
    graph = Graph()
    x = graph.input()
    first, last, other, plain = (graph.call("add", *args) for args in ((0, x), (x, 0), (x, 3), (x, x)))
    subtraction = graph.call("sub", x, 0)
    operations = graph.operations
    assert [operations.is_gain(n) for n in (first, last, other, plain, subtraction)] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_an_addition_gives_a_tensor() -> None:
    graph = Graph()
    x = graph.input()
    assert not graph.operations.is_addition(x)
    number = graph.call("add", 3, 4, value=7)
    assert not graph.operations.is_addition(number)


class OwnLayer(nn.Module):
    """Not of torch.nn: counts as nonlinear, whatever it does."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.ModuleList(inner)


class OwnNorm(nn.BatchNorm2d):
    """Of torch.nn by its base."""


MODULES: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    # module -> (its traits, how to make it)
    "batch norm": ("affine", lambda: nn.BatchNorm2d(4)),
    "own norm": ("affine", lambda: OwnNorm(4)),
    "instance norm": ("affine", lambda: nn.InstanceNorm2d(4)),
    "group norm": ("affine", lambda: nn.GroupNorm(2, 4)),
    "layer norm": ("affine", lambda: nn.LayerNorm(4)),
    "linear": ("affine", lambda: nn.Linear(4, 4)),
    "flatten": ("affine", lambda: nn.Flatten()),
    "fold": ("affine", lambda: nn.Fold(4, 2)),
    "padding": ("affine", lambda: nn.ZeroPad2d(1)),
    "max pool": ("affine", lambda: nn.MaxPool2d(2)),
    "mean pool": ("affine", lambda: nn.AdaptiveAvgPool2d(1)),
    "channel shuffle": ("affine", lambda: nn.ChannelShuffle(2)),
    "pixel unshuffle": ("affine", lambda: nn.PixelUnshuffle(2)),
    "empty sequence": ("affine", lambda: nn.Sequential()),
    "identity": ("affine gain", lambda: nn.Identity()),
    "dropout": ("affine gain", lambda: nn.Dropout()),
    "dropout2d": ("affine gain", lambda: nn.Dropout2d()),
    "convolution": ("affine convolution", lambda: nn.Conv2d(4, 4, 3)),
    "sequence": ("affine convolution", lambda: nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), nn.Identity())),
    "transposed convolution": ("affine convolution upsampling", lambda: nn.ConvTranspose3d(4, 4, 3)),
    "upsampling": ("affine upsampling", lambda: nn.Upsample(scale_factor=2)),
    "pixel shuffle": ("affine upsampling", lambda: nn.PixelShuffle(2)),
    "activation": ("", lambda: nn.ReLU()),
    "attention": ("", lambda: nn.MultiheadAttention(4, 2)),
    "own layer": ("", lambda: OwnLayer()),
    "own layer of others": ("convolution upsampling", lambda: OwnLayer(nn.Conv2d(4, 4, 3), nn.Upsample(2))),
    "sequence with an activation": ("convolution", lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())),
    "norm with an activation": ("", lambda: BatchNormAct2d(4)),
    "norm with an idle activation": ("affine", lambda: BatchNormAct2d(4, apply_act=False)),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    expected, make = MODULES[name]
    graph = Graph(nn.ModuleDict({"layer": make()}))
    node = graph.put("call_module", "layer", graph.input())
    operations = graph.operations
    assert traits(operations, node) == set(expected.split())
    assert operations.module(node) is graph.root.get_submodule("layer")


def test_a_quantization_stub_bends_nothing() -> None:
    observed = nn.Conv2d(4, 4, 3)
    observed.add_module("activation_post_process", QuantStub())
    parametrized = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3))
    activated = nn.Conv2d(4, 4, 3)
    activated.add_module("activation", nn.ReLU())
    graph = Graph(nn.ModuleDict({"a": observed, "b": parametrized, "c": activated}))
    x = graph.input()
    nodes = [graph.put("call_module", path, x) for path in "abc"]
    assert [graph.operations.is_nonlinear(node) for node in nodes] == [False, False, True]


def test_names() -> None:
    graph = Graph(nn.ModuleDict({"layer": nn.ReLU()}))
    x = graph.input()
    nodes = {
        "x": x,
        "add": graph.put("call_function", operator.add, x, x),
        "relu": graph.put("call_function", F.relu, x),
        "view": graph.put("call_method", "view", x, -1),
        "weight": graph.put("get_attr", "weight"),
        "module": graph.put("call_module", "layer", x),
        "output": graph.put("output", "output", x),
    }
    assert {expected: name_of(node) for expected, node in nodes.items()} == {name: name for name in nodes}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (MAP, True),
        (torch.empty(2, 4, 8), True),
        (torch.empty(2, 4), False),
        (MAP.long(), False),
        ((MAP,), False),
        (None, False),
    ],
)
def test_maps(value: Any, expected: bool) -> None:
    assert is_map(value) is expected


KERNELS: list[tuple[nn.Module, int]] = [
    (nn.Conv2d(4, 4, 3), 3),
    (nn.Conv2d(4, 4, (1, 7)), 7),
    (nn.Conv1d(4, 4, 1), 1),
    (nn.MaxPool2d(3), 0),
    (nn.Sequential(nn.Conv2d(4, 4, 3)), 0),
]


@pytest.mark.parametrize(("module", "kernel"), KERNELS)
def test_spatial_kernel_of_a_module(module: nn.Module, kernel: int) -> None:
    graph = Graph(nn.ModuleDict({"layer": module}))
    node = graph.put("call_module", "layer", graph.input())
    assert graph.operations.spatial_kernel(node) == kernel


def test_spatial_kernel_of_a_function_is_its_weights() -> None:
    graph = Graph()
    x = graph.input()
    weight = graph.put("get_attr", "weight", value=torch.empty(8, 9, 5, 3))
    calls = {
        5: graph.call("conv2d", x, weight),
        -5: graph.call("conv2d", x, weight=weight),
        0: graph.call("conv2d", x),
        -1: graph.call("conv2d", x, graph.call("own", x, value=(1, 2))),
        -2: graph.call("avg_pool2d", x, weight),
    }
    operations = graph.operations
    assert {key: operations.spatial_kernel(node) for key, node in calls.items()} == {5: 5, -5: 5, 0: 0, -1: 0, -2: 0}


def test_operands_of_a_sum_and_of_a_concat_however_spelled() -> None:
    graph = Graph()
    x = graph.input()
    y = graph.call("neg", x)
    sums = [graph.call("add", x, y), graph.call("add", x, other=y), graph.call("add", input=x, other=y, alpha=2)]
    stacks = [
        graph.call("stack", [x, y], value=torch.empty(2, 1, 4, 8, 8)),
        graph.call("stack", (x, y), -1, value=torch.empty(1, 4, 8, 8, 2)),
    ]
    sums += [
        graph.call("sum", stacks[0], 0),
        graph.call("mean", stacks[1], dim=(4,)),
        graph.call("sum", stacks[1], axis=-1),
    ]
    weight = graph.put("get_attr", "weight", value=torch.empty(4, 1, 1))
    sums += [graph.call("addcmul", x, weight, y), graph.call("addcmul_", x, tensor1=y, tensor2=weight)]
    assert all(graph.operations.adds_maps(node) for node in sums)
    assert [graph.operations.addends(node) for node in sums] == [(x, y)] * 8
    others = [
        graph.call("sum", stacks[0], 1),
        graph.call("sum", stacks[0]),
        graph.call("sum", stacks[1], (0, 4)),
        graph.call("sum", stacks[0], 0, keepdim=True, value=torch.empty(1, 1, 4, 8, 8)),
        graph.call("amax", stacks[0], 0),
        graph.call("sum", graph.call("stack", [x, y, x], value=torch.empty(3, 1, 4, 8, 8)), 0),
        graph.call("addcmul", x, y, y),
        graph.call("addcmul", x, weight, weight),
    ]
    assert not any(graph.operations.adds_maps(node) for node in others)
    assert [graph.operations.is_nonlinear(node) for node in (*sums[-2:], *others[-2:])] == [False, False, True, True]
    assert [axes_of(node) for node in others[:3]] == [(1,), (), (0, 4)]
    joins = [graph.call("cat", [x, y], 1), graph.call("cat", (x, y), dim=-3), graph.call("cat", tensors=[x, y], axis=1)]
    assert [parts_of(node) for node in joins] == [[x, y]] * 3
    assert [axis_of(node) for node in joins] == [1, 1, 1]
    assert [axis_of(graph.call("cat", [x, y])), axis_of(graph.call("cat", [x, y], x))] == [0, 0]
    assert parts_of(graph.call("cat", [x, 1, y])) == [x, y]
    assert parts_of(graph.call("cat", x)) == []
