"""A patched part in its place: what the model around it asks of it, and what is said where a graph has no answer."""

from __future__ import annotations

import copy
import itertools
import pickle
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import AttnInjectError, GuardError, PlanError, attach, find_sites, inject, optimize, remove, verify
from attn_inject.errors import ArgumentError
from attn_inject.tracing.parts import patched_parts

from ..toys import conv


@dataclass
class Output:
    map: torch.Tensor
    level: float


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.net(x)


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.block = Block()
        self.width = 16

    @property
    def stride(self) -> int:
        return self.width // 8

    @cached_property
    def depth(self) -> int:
        return 3

    @staticmethod
    def area(side: int) -> int:
        return side * side

    def scaled(self, x: torch.Tensor, **more: Any) -> Any:
        return self(x, scale=self.width / 8, **more)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(self.stem(x))

    def forward(self, x: torch.Tensor, scale: float = 1.0, *, as_output: bool = False, **more: Any) -> Any:
        out = self.block(self.stem(x)) * scale + more.get("plus", 0)
        return Output(out, scale) if as_output else out


class Whole(nn.Module):
    """Calls its part as `call` says."""

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.part = Part()
        self.call = call

    def forward(self, x: torch.Tensor, **more: Any) -> Any:
        return self.call(self.part, x, **more)


def whole(call: Callable[..., Any]) -> nn.Module:
    torch.manual_seed(0)
    return Whole(call).eval()


IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        lambda part, x: part(x) / part.width,
        lambda part, x: part(x) * part.stride,
        lambda part, x: part(x) * part.depth,
        lambda part, x: part(x) * part.area(3),
        lambda part, x: part(x, scale=2.0),
        lambda part, x: part(x, 2.0),
        lambda part, x: part(scale=2.0, x=x),
        lambda part, x: part(x, 1.0, as_output=False),
        lambda part, x: part(x, 3.0, as_output=True).map,
        lambda part, x: (lambda out: out.map + out.level)(part(x, as_output=True)),
        lambda part, x: part(x, plus=2),
        lambda part, x: part.scaled(x, as_output=False),
        lambda part, x: part.scaled(x, as_output=True).map * part.scaled.__func__.__code__.co_argcount,
        lambda part, x: part(x) + part(x.flip(-1)),
        lambda part, x: part(x, 2.0) + part(x, 3.0),
        lambda part, x: part(x, 2.0 + part.training),
        lambda part, x: part(x, plus=x.shape[2]),
    ],
)
def test_a_whole_finds_what_it_asks_for(call: Any) -> None:
    model = whole(call)
    patched: nn.Module = inject(model, "se", reduction=4, init="identity", scope="part")
    assert isinstance(patched, Whole)
    assert not [loss for loss in patched.injection.not_kept if "trial" in loss]
    for mode in (True, False):
        assert torch.equal(patched.train(mode)(IMAGE), model.train(mode)(IMAGE))
    assert verify(model, patched).passed
    torch.manual_seed(1)
    gated: nn.Module = inject(model, "se", reduction=4, scope="part")
    assert not torch.allclose(gated.eval()(IMAGE), model(IMAGE))
    attached = attach(model, "se", reduction=4, scope="part").eval()
    attached.load_state_dict(gated.state_dict())
    assert torch.equal(attached(IMAGE), gated(IMAGE))
    for again in (copy.copy(gated), copy.deepcopy(gated), pickle.loads(pickle.dumps(_without_call(gated)))):
        again.call = call
        assert torch.equal(again(IMAGE), gated(IMAGE))
    assert torch.equal(remove(gated)(IMAGE), model(IMAGE))
    fast = optimize(gated)
    for each in (fast, copy.copy(fast), copy.deepcopy(fast), pickle.loads(pickle.dumps(_without_call(fast)))):
        each.call = call
        torch.testing.assert_close(each(IMAGE), gated(IMAGE), rtol=1e-4, atol=1e-5)


def _without_call(model: nn.Module) -> nn.Module:
    bare = copy.copy(model)
    vars(bare).pop("call")
    return bare


PAST = "the model around part runs what is in it past its forward, where a graph has no attention"


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda part, x: part.features(x), r"does not run with a graph in its place \(features\(\) was not kept"),
        (lambda part, x: part.block(part.stem(x)), PAST),
        (lambda part, x: part(x) + part.block(part.stem(x)), PAST),
        (
            lambda part, x: part(x) + part(x, as_output=True).map,
            r"calls it in several ways \(.* as_output=False and is given True",
        ),
        (lambda part, x: part(x) * (2 if isinstance(part, Part) else 3), "gives something else with a graph"),
    ],
)
def test_a_whole_that_asks_for_more_is_refused_and_attach_does_it(call: Any, reason: str) -> None:
    model = whole(call)
    with pytest.raises(PlanError, match=rf"{reason}.*: use attach\(\), which keeps the part's own class"):
        inject(model, "se", reduction=4, scope="part")
    attached = attach(model, "se", reduction=4, init="identity", scope="part").eval()
    assert torch.equal(attached(IMAGE), model(IMAGE))


def test_a_whole_that_runs_the_layers_of_a_sequential_itself() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(conv(3, 16), Block(), Block())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    model = Loop().eval()
    with pytest.raises(PlanError, match=r"^the model around layers .*: use attach\(\)"):
        inject(model, "se", reduction=4, scope="layers", input_size=(3, 16, 16))
    patched: nn.Module = inject(model, "se", reduction=4, scope="layers.1", init="identity")
    assert torch.equal(patched.eval()(IMAGE), model(IMAGE))


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda part, x: part(x["image"], scale=2.0), "it runs on no image of a usual size"),
        (lambda part, x: part(x) if part.training else x, "it does not run that part in eval mode"),
        (lambda part, x: part(x) if x.is_meta else int("none"), "its outputs could not be compared on an image of"),
    ],
)
def test_what_could_not_be_tried_is_said(call: Any, why: str) -> None:
    patched = inject(whole(call), "se", reduction=4, scope="part")
    assert any(f"a trial of the model around part: {why}" in loss for loss in patched.injection.not_kept)


class Counting(nn.Module):
    """Notes what runs, and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.norm, self.drop = Part(), nn.BatchNorm2d(16), nn.Dropout(0.5)
        self.seen: list[int] = []
        self.runs: torch.Tensor
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        self.runs.add_(1)
        made: torch.Tensor = self.drop(self.norm(self.part(x))) * random.random()
        return made


def test_a_trial_in_train_mode_changes_nothing() -> None:
    model = Counting().eval()
    state = copy.deepcopy(model.state_dict())
    drawn = (random.getstate(), torch.get_rng_state())
    patched: Any = inject(model, "se", reduction=4, init="identity", scope="part", name="gate")
    assert random.getstate() == drawn[0]
    assert not [loss for loss in patched.injection.not_kept if "trial" in loss]
    assert (model.seen, model.training) == ([], False)
    for each in (model, patched):
        held = {name: value for name, value in each.state_dict().items() if ".gate." not in name}
        assert held.keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in held.items())


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (
            lambda part, x: part.features(x) if part.training else part(x),
            r"does not run .* \(features\(\) was not kept",
        ),
        (lambda part, x: part(x) + part.block(part.stem(x)) * part.training, PAST),
        (
            lambda part, x: part(x, as_output=True).map if part.training else part(x),
            r"calls it in several ways \(.* as_output=False and is given True",
        ),
        (lambda part, x: part(x) * (2 if part.training and isinstance(part, Part) else 3), "gives something else"),
    ],
)
def test_a_whole_that_asks_for_more_in_train_mode_is_refused(call: Any, reason: str) -> None:
    with pytest.raises(PlanError, match=rf"{reason}.*: use attach\(\), which keeps the part's own class"):
        inject(whole(call), "se", reduction=4, scope="part")


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (
            lambda part, x: part(x["image"] if part.training else x),
            "in train mode: it runs on no image of a usual size",
        ),
        (lambda part, x: part(x) * next(NUMBERS), ": it gives something else each time that it runs"),
    ],
)
def test_what_could_not_be_tried_in_train_mode_is_said(call: Any, why: str) -> None:
    patched = inject(whole(call), "se", reduction=4, scope="part")
    said = [loss for loss in patched.injection.not_kept if "trial" in loss]
    assert said == [f"a trial of the model around part{' ' * why.startswith('in')}{why}"]
    assert not [
        loss
        for loss in inject(
            whole(lambda part, x: x if part.training else part(x)), "eca", scope="part"
        ).injection.not_kept
        if "trial" in loss
    ]


NUMBERS: Iterator[int] = itertools.count(1)


def test_a_whole_that_needs_its_hooks_is_tried_with_them() -> None:
    model: Any = whole(lambda part, x: part(x) + found.pop())
    found: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda _, given: found.append(given[0].mean()))
    patched: Any = inject(model, "se", reduction=4, init="identity", scope="part")
    assert not [loss for loss in patched.injection.not_kept if "trial" in loss]
    assert torch.equal(patched.eval()(IMAGE), model(IMAGE))


def test_an_argument_that_the_graph_was_not_made_with_is_refused_when_it_runs() -> None:
    model = whole(lambda part, x, wide=True, scale=2.0: part(x, scale=scale, as_output=wide).map)
    patched: nn.Module = inject(model, "se", reduction=4, init="identity", scope="part")
    assert "argument as_output=True: fixed at what it was given when it was read" in patched.injection.not_kept
    patched.eval()(IMAGE)
    for wide in (False, 1, None):
        with pytest.raises(
            ArgumentError, match=rf"^the graph was made with as_output=True and is given {wide}: attach\(\)"
        ):
            patched(IMAGE, wide=wide)
        with pytest.raises(ArgumentError, match=r"^the graph was made with as_output=True"):
            optimize(patched)(IMAGE, wide=wide)
    # A number is an input, and may be another.
    for scale in (3.0, 2):
        assert torch.equal(patched(IMAGE, scale=scale), model(IMAGE, scale=scale))
    with pytest.raises(ArgumentError, match=r"^the graph was made with scale=2.0 and is given None: attach\(\)"):
        patched(IMAGE, scale=None)
    bare: nn.Module = inject(whole(lambda part, x: part(x)), "se", reduction=4, scope="part")
    assert "argument scale=1.0: fixed at its default" in bare.injection.not_kept
    assert issubclass(ArgumentError, GuardError)
    assert issubclass(ArgumentError, AttnInjectError)


def test_a_method_is_not_reachable_and_the_error_says_what_to_do() -> None:
    part = patched_parts(inject(whole(lambda part, x: part(x)), "se", reduction=4, scope="part"))["part"]
    with pytest.raises(AttributeError, match=r"^features\(\) was not kept: .* attach\(\)"):
        _ = part.features
    assert "method features(): it runs the class's own code" in part.injection.not_kept
    assert not any("area" in loss for loss in part.injection.not_kept)
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = part.nothing_of_the_kind
    again = inject(part, "eca", kinds=("stage",), input_size=16)
    assert "method features(): it runs the class's own code" in again.injection.not_kept


def test_a_part_is_read_on_what_the_whole_gives_it() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, *maps: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return self.block(maps[0] + maps[1]) * weight

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = conv(3, 16, s=2), Decoder()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.encoder(x)
            return self.decoder(x, x.flip(-1), weight=x[:1])

    model = Net().eval()
    (site,) = find_sites(model, scope="decoder")
    assert site.size == (112, 112)
    patched: nn.Module = inject(model, "se", reduction=4, init="identity", scope="decoder")
    assert torch.equal(patched.eval()(IMAGE), model(IMAGE))
    part = patched_parts(patched)["decoder"]
    assert part.injection.plan.input_shape == (2, 16, 112, 112)


@pytest.mark.parametrize("given", [{"input_size": (3, 24, 20)}, {"example_inputs": torch.zeros(3, 3, 24, 20)}])
def test_another_size_is_given_as_the_whole_gives_its_own(given: dict[str, Any]) -> None:
    model = whole(lambda part, x: part(x, scale=2.0, as_output=True).map)
    patched: Any = inject(model, "se", reduction=4, init="identity", scope="part", **given)
    (insertion,) = patched.injection.plan.insertions
    assert insertion.site.size == (24, 20)
    assert torch.equal(patched.eval()(IMAGE), model(IMAGE))


def test_arguments_that_are_given_as_examples_are_inputs() -> None:
    model = whole(lambda part, x: part(x, scale=x.mean()))
    patched: nn.Module = inject(
        model, "se", reduction=4, init="identity", scope="part", example_inputs=(IMAGE, torch.tensor(2.0))
    )
    assert "scale" not in patched_parts(patched)["part"].fixed
    assert torch.equal(patched.eval()(IMAGE), model(IMAGE))


def test_the_class_is_forgotten_where_no_other_process_could_import_it() -> None:
    class Local(Part):
        @property
        def stride(self) -> int:
            return 5

    part = inject(Local(), "se", reduction=4, input_size=16)
    assert part.stride == 5
    again = pickle.loads(pickle.dumps(part))
    assert torch.equal(again.eval()(IMAGE), part.eval()(IMAGE))
    with pytest.raises(AttributeError, match="stride"):
        _ = again.stride
    kept = pickle.loads(pickle.dumps(inject(Part(), "se", reduction=4, input_size=16)))
    assert kept.stride == 2


@pytest.mark.parametrize("form", [inject, attach])
def test_hooks_around_a_part_keep_nothing_of_our_trials(form: Any) -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part, self.head = nn.Sequential(conv(3, 16), Block()), conv(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.part(x))

    model = Around()
    seen: list[Any] = []
    model.head.register_forward_hook(lambda *given: seen.append(given))
    patched = form(model, "se", scope="part", input_size=32)
    assert seen == []
    patched(torch.randn(2, 3, 32, 32))
    assert len(seen) == 1
