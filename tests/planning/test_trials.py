"""Each new module runs once on shapes before anything is edited; what shapes cannot tell is asked on real values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from attn_inject import AttentionError, attach, inject, make_plan

from .. import toys

SIZE = (3, 16, 16)


def toy() -> nn.Module:
    return toys.Toy(toys.Block(toys.SPELLINGS["+"]))


class Looking(nn.Module):
    """An attention that looks at values; `wrong` for maps without any."""

    runs = 0

    def __init__(self, channels: int, *, wrong: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.wrong = wrong

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.abs().max().item() < 1:
            Looking.runs += 1
            if self.wrong:
                raise ValueError
        return x * self.weight


def test_what_looks_at_values_runs_on_the_models_own_device() -> None:
    Looking.runs = 0
    assert len(make_plan(toy(), Looking, input_size=SIZE).insertions) == 1
    assert Looking.runs == 1
    with pytest.raises(AttentionError, match="body.looking: .* does not run on the map 2x16x16x16 there: ValueError;"):
        make_plan(toy(), Looking, wrong=True, input_size=SIZE)


def test_a_model_without_values_leaves_it_to_later_checks() -> None:
    Looking.runs = 0
    assert len(make_plan(toy().to("meta"), Looking, wrong=True, input_size=SIZE).insertions) == 1
    assert Looking.runs == 0


def _raising(channels: int) -> nn.Module:
    return toys.Lambda(lambda m, x: x.reshape(3, -1))


def _listing(channels: int) -> nn.Module:
    return toys.Lambda(lambda m, x: [x])  # type: ignore[return-value]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("init", ["paper", "identity"])
@pytest.mark.parametrize(
    ("attention", "words"),
    [
        (_raising, "does not run on the map 2x16x16x16 there: RuntimeError: shape '"),
        (_listing, "gives a list, and an attention must give one tensor"),
        (lambda channels: nn.MaxPool2d(2), "makes 2x16x8x8 of the map 2x16x16x16: an attention must keep the shape"),
    ],
)
def test_a_forward_that_fails_is_told_with_its_place(attention: Callable, words: str, init: str, device: str) -> None:
    with pytest.raises(AttentionError, match="^body[^\n]+$") as caught:
        make_plan(toy().to(device), attention, init=init, input_size=SIZE)
    assert words in str(caught.value)


def test_sites_that_are_alike_run_once() -> None:
    Looking.runs = 0
    block = toys.Block(toys.SPELLINGS["+"])
    model = toys.Toy(nn.Sequential(block, toys.Block(toys.SPELLINGS["+"]), toys.Block(toys.SPELLINGS["+"])))
    assert len(make_plan(model, Looking, input_size=SIZE).insertions) == 3
    assert Looking.runs == 1


class Writing(nn.Module):
    """Writes into what it is given; `by_value` for one that the meta device refuses to run."""

    def __init__(self, channels: int, *, by_value: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.by_value = by_value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(self.weight if not self.by_value or x.abs().max().item() < 1e9 else 1)


@pytest.mark.parametrize("by_value", [False, True])
def test_what_writes_into_a_map_that_others_read_is_refused(by_value: bool) -> None:
    words = "body.writing: .*writes into the map that it is given, which others read there too"
    with pytest.raises(AttentionError, match=words):
        make_plan(toy(), Writing, by_value=by_value, placement="pre", input_size=SIZE)
    # The branch's end has no other reader.
    assert make_plan(toy(), Writing, by_value=by_value, input_size=SIZE).insertions


class Lazy(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.LazyLinear(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


def test_what_gets_its_sizes_in_a_first_run_is_refused() -> None:
    with pytest.raises(AttentionError, match="body.lazy: .*Lazy layers.: make them from the number of channels"):
        make_plan(toy(), Lazy, input_size=SIZE)


def _three() -> nn.Module:
    return toys.Toy(nn.Sequential(*(toys.Block(toys.SPELLINGS["+"]) for _ in range(3))))


@pytest.mark.parametrize("verb", [inject, attach])
def test_one_module_for_several_sites_is_refused(verb: Callable) -> None:
    made = nn.BatchNorm2d(16)

    def same(channels: int) -> nn.Module:
        return made

    with pytest.raises(AttentionError, match="body.1.same: .*gives the same module for several sites"):
        verb(_three(), same, input_size=SIZE)


@pytest.mark.parametrize("verb", [inject, attach])
def test_gates_may_share_a_part(verb: Callable) -> None:
    shared = nn.Linear(1, 1)

    class Sharing(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.part = shared

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.sigmoid(self.part(x.mean((2, 3)).unsqueeze(-1))).unsqueeze(-1)

    patched = verb(_three(), Sharing, input_size=SIZE)
    patched(torch.randn(2, *SIZE)).sum().backward()
    assert shared.weight.grad is not None
