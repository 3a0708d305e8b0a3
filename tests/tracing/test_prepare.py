"""What is taken off a model, what is refused, and what a patched model will not have."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from attn_inject import TraceError, attach, inject
from attn_inject.tracing.inputs import Inputs
from attn_inject.tracing.prepare import materialised, must_have_forward, not_kept, unwrap
from tests.toys import SPELLINGS, Block, Toy


def test_wrappers_inside_one_another_are_taken_off() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    assert unwrap(model) is model
    wrapped: Any = nn.DataParallel(cast(nn.Module, torch.compile(nn.DataParallel(model))))
    assert unwrap(wrapped) is model


def _scripted() -> nn.Module:
    scripted: nn.Module = torch.jit.script(nn.ReLU())
    return scripted


def _quantized() -> nn.Module:
    from torch.ao.nn.quantized import ReLU6

    return ReLU6()


def _fake() -> nn.Module:
    with FakeTensorMode():
        return nn.Linear(2, 2)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_scripted, "is a scripted module, whose code cannot be traced: pass the module it was scripted from"),
        (_quantized, "is quantized: inject into the float model and quantize the result"),
        (
            _fake,
            "has fake tensors (FakeTensorMode), which run nowhere else: build it under torch.device('meta') instead",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(make: Any, words: str, inside: bool) -> None:
    with pytest.raises(TraceError) as caught:
        unwrap(nn.Sequential(nn.ReLU(), make()) if inside else make())
    assert str(caught.value) == f"{'submodule 1' if inside else 'the model'} {words}"


def test_what_has_no_forward_is_refused_and_what_has_one_somewhere_is_not() -> None:
    with pytest.raises(TraceError) as caught:
        must_have_forward(nn.ModuleList([nn.ReLU()]))
    assert str(caught.value) == (
        "ModuleList has no forward, so that it cannot be run: pass a module that takes an input"
    )
    given: Any = nn.ModuleList([nn.ReLU()])
    given.forward = given[0].forward
    must_have_forward(given)

    class Called(nn.Module):
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x

    must_have_forward(Called())


def test_a_part_that_is_distributed_is_refused() -> None:
    # Without processes to distribute it to.
    part = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(part)
    with pytest.raises(TraceError) as caught:
        unwrap(nn.Sequential(part))
    assert str(caught.value) == (
        "submodule 0 is wrapped (DistributedDataParallel): unwrap it first, wrap the patched model after"
    )


def test_the_float_stand_in_of_quantizable_models_is_none() -> None:
    from torch.ao.nn.quantized import FloatFunctional

    model = nn.Sequential(FloatFunctional())
    assert unwrap(model) is model


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TraceError, match=r"^expected an nn\.Module, got str$"):
        unwrap("resnet50")


def test_what_says_that_it_is_a_module_and_is_none_is_refused_with_what_it_holds() -> None:
    class StandIn:
        def __init__(self, model: nn.Module) -> None:
            self.model = model

        __class__: Any = property(lambda _: nn.Sequential)

    with pytest.raises(TraceError, match=r"an nn\.Module, got StandIn: pass the module that it holds, \.model$"):
        unwrap(cast(nn.Module, StandIn(nn.ReLU())))


def test_lazy_modules_see_the_inputs_once_in_a_copy() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    assert materialised(model, None) is model
    lazy = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(TraceError) as caught:
        materialised(lazy, None)
    assert str(caught.value) == (
        "the model has lazy modules without shapes: run it once on an input, or pass example_inputs"
    )
    ready: Any = materialised(lazy, Inputs((torch.zeros(1, 3),)))
    assert ready[0].weight.shape == (2, 3)
    assert lazy[0].has_uninitialized_params()
    assert materialised(ready, None) is ready


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        self.head = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(x))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)

    def _private(self) -> None: ...


def test_what_is_not_kept_is_named() -> None:
    model: Any = Model()
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.call_module("head", (graph.call_module("block.0", (x,)),))
    assert not_kept(model, [graph], {}) == ("method features(): it runs the class's own code",)
    for module in (model, model.block, model.block[0], model.head):
        module.register_forward_hook(lambda *_: None)
    model.block.register_forward_pre_hook(lambda *_: None)
    model.block[1].register_full_backward_hook(lambda *_: None)
    model.block[1].register_full_backward_pre_hook(lambda *_: None)
    model.head.bias.register_hook(lambda grad: grad)
    again = "register it again, on a module that the graph calls"
    assert not_kept(model, [graph], {"mask": None}) == (
        f"forward hook on block: {again}",
        f"forward pre-hook on block: {again}",
        f"backward hook on block.1: {again}",
        f"backward pre-hook on block.1: {again}",
        "parameter hook on head.bias: register it again, on the patched model's",
        "argument mask=None: fixed at what it was given when it was read",
        "method features(): it runs the class's own code",
    )


def test_a_graph_module_has_no_methods_to_lose() -> None:
    traced = fx.symbolic_trace(Model())
    assert not_kept(traced, [traced.graph], {}) == ()


def test_a_call_of_its_own_is_named_among_what_is_lost() -> None:
    class Named(Toy):
        def __call__(self, x: torch.Tensor) -> Any:
            return {"logits": super().__call__(x)}

    def made() -> nn.Module:
        return Named(Block(SPELLINGS["+"]))

    x = torch.randn(1, 3, 16, 16)
    patched = inject(made(), "se", input_size=16)
    assert isinstance(patched(x), torch.Tensor)
    assert patched.injection.not_kept == (
        "the class's own __call__(): a call gives what forward() gives; attach() keeps it",
    )
    attached: Any = attach(made(), "se", input_size=16)
    assert list(attached(x)) == ["logits"]
    assert inject(Toy(Block(SPELLINGS["+"])), "se", input_size=16).injection.not_kept == ()
