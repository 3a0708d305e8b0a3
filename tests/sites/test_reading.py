"""A model read once: which part of it, on which inputs, for which kinds."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import InjectedModule, PlanError, TraceError, find_sites, inject
from attn_inject.sites.reading import read, retrace, shaped_graph, submodule
from attn_inject.tracing.nodes import has_value, value_of

from .. import toys

SIZE = (3, 16, 16)


def _model() -> nn.Module:
    return toys.Toy(nn.Sequential(toys.Block(toys._iadd), toys.Block(toys._iadd)))


@pytest.fixture(scope="module")
def patched() -> InjectedModule:
    torch.manual_seed(0)
    return inject(_model(), "eca", include="body.0", input_size=SIZE)


def test_an_untouched_model() -> None:
    model = _model()
    located = read(model, input_size=SIZE)
    assert located.part is located.model is model
    assert (located.scope, located.kinds, located.patched_part, located.earlier) == (
        None, ("residual", "mixed"), None, (),
    )  # fmt: skip
    assert [site.block for site in located.sites] == ["body.0", "body.1"]
    assert list(located.graphs) == list(located.trace.graphs) == ["eval", "train"]


def test_a_scope_is_read_alone_and_its_blocks_are_named_from_there() -> None:
    model = _model()
    located = read(model, scope="body", input_size=(16, 8, 8))
    assert located.part is model.get_submodule("body")
    assert [site.block for site in located.sites] == ["0", "1"]
    assert located.trace.input_shape == (2, 16, 8, 8)


def test_a_patched_model_knows_what_was_put_in(patched: InjectedModule) -> None:
    located = read(patched, input_size=SIZE)
    assert located.patched_part is located.part is patched
    assert [(i.module, i.attention) for i in located.earlier] == [("body.0.eca", "eca")]
    assert [site.block for site in located.sites] == ["body.0", "body.1"]
    outer = nn.Sequential(patched)
    located = read(outer, scope="0", input_size=SIZE)
    assert located.model is outer
    assert located.patched_part is patched


def test_a_patched_models_own_graphs_are_copied(patched: InjectedModule) -> None:
    traced = retrace(patched)
    assert list(traced.graphs) == ["eval", "train"]
    for mode, graph in traced.graphs.items():
        own = patched.graph_of(mode)
        assert graph is not own
        assert [n.name for n in graph.nodes] == [n.name for n in own.nodes]
    assert traced.skeleton is not patched
    assert traced.constants == {}
    assert next(traced.skeleton.parameters()).data_ptr() == next(patched.parameters()).data_ptr()


@pytest.mark.parametrize("scope", [None, ""])
def test_no_scope_is_the_model(scope: str | None) -> None:
    model = _model()
    assert submodule(model, scope) is model


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        ("bod", "scope 'bod' is no submodule of Toy (did you mean body or body.1 or body.0?)"),
        ("body.0.conv", "scope 'body.0.conv' is no submodule of Toy (did you mean "
         "body.0.conv2 or body.0.conv1 or body.1.conv2?)"),
        ("zzz", "scope 'zzz' is no submodule of Toy"),
    ],
)  # fmt: skip
def test_a_scope_that_is_none_names_the_nearest(scope: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        find_sites(_model(), scope=scope)
    assert str(caught.value) == message
    assert caught.value.__suppress_context__


IMAGE = torch.zeros(3, 3, 12, 12)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"example_inputs": IMAGE}, (3, 3, 12, 12)),
        ({"example_inputs": (IMAGE,)}, (3, 3, 12, 12)),
        ({"example_inputs": [IMAGE]}, (3, 3, 12, 12)),
        ({"input_size": 8}, (2, 3, 8, 8)),
        ({"input_size": (8,)}, (2, 3, 8, 8)),
        ({"input_size": (8, 12)}, (2, 3, 8, 12)),
        ({"input_size": [3, 8, 12]}, (2, 3, 8, 12)),
        ({"input_size": iter((3, 8, 12))}, (2, 3, 8, 12)),
        ({}, (2, 3, 224, 224)),
    ],
)
def test_inputs(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    located = read(_model().to("meta"), **options)
    assert located.trace.input_shape == shape
    assert value_of(next(iter(located.trace.graphs["train"].nodes))).shape == shape


def test_kinds_are_checked_and_kept() -> None:
    assert read(_model().to("meta"), kinds=("stage",), input_size=SIZE).kinds == ("stage",)
    assert [s.kind for s in find_sites(_model().to("meta"), kinds=("stage",), input_size=SIZE)] == ["stage"]
    with pytest.raises(PlanError, match=r"kinds are .*; got stages \(did you mean stage\?\)"):
        read(_model(), kinds=("stages",))


def test_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = toys.conv(3, 3), toys.conv(3, 3)

        def forward(self, x: torch.Tensor, y: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
            return x + self.b(torch.relu(self.a(x + y)))

    located = read(Two(), example_inputs=(IMAGE, IMAGE))
    assert [site.node for site in located.sites] == ["b"]
    assert located.trace.fixed_arguments == {"scale": 1.0}


def test_wrapped_and_lazy_models() -> None:
    model = _model()
    assert read(nn.DataParallel(model), input_size=SIZE).model is model
    lazy = nn.Sequential(nn.LazyConv2d(8, 3, padding=1), toys.Block(toys.SPELLINGS["+"], 8, 8))
    located = read(lazy, example_inputs=IMAGE)
    assert located.model is not lazy
    assert [site.block for site in located.sites] == ["1"]
    # An example for a part is no input of the whole.
    with pytest.raises(TraceError, match="lazy modules"):
        read(lazy, example_inputs=torch.zeros(2, 8, 8, 8), scope="1")


def test_a_graph_with_shapes(patched: InjectedModule) -> None:
    graph = shaped_graph(patched, "train")
    assert graph is patched.graph_of("train")
    other = shaped_graph(patched, "eval", torch.zeros(5, 3, 12, 12))
    assert other is not patched.graph_of("eval")
    assert value_of(next(iter(other.nodes))).shape == (5, 3, 12, 12)
    loaded = pickle.loads(pickle.dumps(patched))
    bare = loaded.graph_of("eval")
    assert not has_value(next(iter(bare.nodes)))
    shaped = shaped_graph(loaded, "eval")
    assert [n.name for n in shaped.nodes] == [n.name for n in bare.nodes]
    assert all(has_value(node) for node in shaped.nodes)
    assert not has_value(next(iter(bare.nodes)))


def test_reading_leaves_the_model_as_it_was(patched: InjectedModule) -> None:
    twin = copy.deepcopy(patched).train()
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    read(twin, input_size=SIZE)
    assert all(module.training for module in twin.modules())
    assert all(torch.equal(value, before[name]) for name, value in twin.state_dict().items())
