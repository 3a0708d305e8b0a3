"""The order and the bookkeeping of a race. The clock is simulated: how fast this machine is proves nothing."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from attn_inject import AttnInjectError
from attn_inject.cost.device import Device, pick, threads
from attn_inject.cost.latency import PAIRS, BenchSettings, Contest
from attn_inject.cost.samples import is_resolved
from attn_inject.cost.shares import module_seconds, shares
from attn_inject.tracing.inputs import Inputs, image


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))


@pytest.fixture
def model() -> nn.Module:
    made = net()
    made(torch.zeros(2, 3, 8, 8))
    return made


def simulated(
    monkeypatch: pytest.MonkeyPatch,
    contest: Contest,
    seconds: list[float],
    noise: float = 0.0,
    drift: float = 0.0,
    seed: int = 0,
) -> list[int]:
    """Replace the clock: model i takes `seconds[i]`, with noise, and the machine slows down by `drift` a reading."""
    order: list[int] = []
    generator = random.Random(seed)
    runs: list[object] = []

    def read(self: Device, run: Callable[[], object], number: int) -> float:
        if run not in runs:
            runs.append(run)
        index = runs.index(run)
        order.append(index)
        return seconds[index] * (1 + drift * len(order)) * generator.lognormvariate(0, noise)

    monkeypatch.setattr(Device, "seconds", read)
    return order


def test_the_two_take_turns_and_swap_who_is_first(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    contest = Contest((model, model), image(3, 8, 8), BenchSettings(device="cpu", seconds=0.05))
    order = simulated(monkeypatch, contest, [1e-3, 1e-3])
    race = contest.inference()
    warm, turns = order[:2], order[2:]
    assert warm == [0, 1]
    assert turns[:12] == [0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0]
    assert len(turns) == 2 * race.pairs
    assert race.pairs >= PAIRS
    assert race.pairs % 2 == 0


def test_a_drifting_machine_favours_nobody(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    contest = Contest((model, model), image(3, 8, 8), BenchSettings(device="cpu", seconds=0.05))
    simulated(monkeypatch, contest, [1e-3, 1.1e-3], drift=0.001)
    race = contest.inference()
    first, ratio = race.ratios
    assert (first.median, first.low, first.high) == (1.0, 1.0, 1.0)
    assert ratio.median == pytest.approx(1.1, rel=1e-3)
    assert ratio.low <= 1.1 <= ratio.high


def test_a_model_against_itself_is_not_told_apart_ten_times_out_of_ten(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(10):
        contest = Contest((model, model), image(3, 8, 8), BenchSettings(device="cpu", seconds=0.02))
        simulated(monkeypatch, contest, [1e-3, 1e-3], noise=0.05 + 0.01 * seed, drift=1e-4, seed=seed)
        ratio = contest.inference().ratios[1]
        assert ratio.low <= 1 <= ratio.high


def test_a_real_difference_is_seen(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    contest = Contest((model, model), image(3, 8, 8), BenchSettings(device="cpu", seconds=0.05))
    simulated(monkeypatch, contest, [1e-3, 1.2e-3], noise=0.02)
    ratio = contest.inference().ratios[1]
    assert ratio.low > 1
    assert is_resolved(ratio.median, ratio.low, ratio.high, ratio.confidence, contended=False)


def test_five_percent_are_resolved_and_nothing_is_on_a_machine_where_every_turn_is_hit(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    for noise, wanted in ((0.02, True), (1.5, False)):
        contest = Contest((model, model), image(3, 8, 8), BenchSettings(device="cpu", seconds=0.05))
        simulated(monkeypatch, contest, [1e-3, 1.05e-3], noise=noise)
        ratio = contest.inference().ratios[1]
        assert is_resolved(ratio.median, ratio.low, ratio.high, ratio.confidence, contended=False) is wanted


def test_three_begin_in_turn_and_share_their_weights(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    contest = Contest((model, model, nn.Sequential(model)), image(3, 8, 8), BenchSettings(device="cpu", seconds=0.05))
    first, second, third = contest.models
    assert first is second
    assert third[0] is first
    assert first is not model
    contest = Contest((model, net_of(model), net_of(model)), image(3, 8, 8), BenchSettings(device="cpu", seconds=0.05))
    order = simulated(monkeypatch, contest, [1e-3, 1.1e-3, 1.2e-3])
    race = contest.inference()
    turns = [tuple(order[at : at + 3]) for at in range(3, 21, 3)]
    assert turns == [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1), (2, 0, 1), (1, 0, 2)]
    assert [ratio.median for ratio in race.ratios] == pytest.approx([1.0, 1.1, 1.2])


def net_of(model: nn.Module) -> nn.Module:
    """Another model over the same weights."""
    return nn.Sequential(*model.children())


def test_what_is_too_slow_for_the_limit_is_said_before_it_starts(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    contest = Contest((model, model), image(3, 8, 8), BenchSettings(device="cpu", seconds=1.0))
    order = simulated(monkeypatch, contest, [2.6, 2.7])
    said: list[tuple[str, int]] = []
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: said.append((str(message), len(order)))
        warnings.simplefilter("always")
        contest.inference()
    ((text, turns),) = said
    assert text.startswith("inference: one turn of all models takes 5.3 s, too long to resolve much in 0.8 s; give it ")
    assert turns == 2


def test_the_processor_is_watched_where_it_is_what_works(model: nn.Module) -> None:
    with threads(1):
        race = Contest((model, model), image(3, 8, 8), BenchSettings(device="cpu", seconds=0.05)).inference()
    assert race.contention is not None
    assert race.contention.threads == 1
    assert race.contention.own > 0


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with threads(None):
        assert torch.get_num_threads() == before


def test_shares_that_the_passes_agree_on_are_resolved() -> None:
    steady = shares({"a": [1.0, 2.0, 1.0, 2.0, 1.0, 2.0], "b": [3.0, 6.0, 3.0, 6.0, 3.0, 6.0]})
    assert {path: share.percent for path, share in steady.items()} == {"a": 25.0, "b": 75.0}
    assert steady["a"].seconds == 1.5


@pytest.mark.parametrize(
    "samples",
    [
        {"a": [1.0] * 5, "b": [3.0] * 5},  # too few passes to be sure
        {"a": [1.0, 99.0, 1.0, 99.0, 1.0, 99.0], "b": [3.0] * 6},  # passes that do not agree
        {"a": [0.0] * 6, "b": [0.0] * 6},  # nothing to share
    ],
)
def test_shares_that_are_not_resolved_are_none(samples: dict[str, list[float]]) -> None:
    found = shares(samples)
    assert found["a"].percent is None


def test_no_modules_no_shares() -> None:
    assert shares({}) == {}


@pytest.mark.bench
def test_a_model_against_itself_on_the_real_clock(model: nn.Module) -> None:
    for _ in range(10):
        ratio = Contest((model, model), image(3, 8, 8), BenchSettings(device="cpu", seconds=1.0)).inference().ratios[1]
        assert ratio.low <= 1 <= ratio.high


def test_the_callers_models_are_untouched(model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    settings = BenchSettings(device="cpu", dtype=torch.bfloat16, batch=3, channels_last=True, seconds=0.02)
    contest = Contest((model, model), image(3, 8, 8), settings)
    race = contest.training()
    assert race.pairs >= 2
    (images,) = contest.inputs.tensors
    assert images.shape == (3, 3, 8, 8)
    assert images.dtype == torch.bfloat16
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


def test_peak_memory_is_not_claimed_on_a_cpu(model: nn.Module) -> None:
    race = Contest((model, model), image(3, 8, 8), BenchSettings(device="cpu", seconds=0.01)).inference()
    assert [timing.peak_bytes for timing in race.timings] == [None, None]


def test_shares_are_of_every_call_and_leave_no_hook(model: nn.Module) -> None:
    model.eval()
    seconds = module_seconds(model, ["0", "4"], Inputs((torch.zeros(2, 3, 8, 8),)), pick("cpu"), 0.01)
    assert set(seconds) == {"0", "4"}
    assert len(seconds["0"]) == len(seconds["4"]) >= 3
    assert all(value > 0 for values in seconds.values() for value in values)
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks


@pytest.mark.parametrize("device", ["nonsense", "meta"])
def test_devices_that_cannot_be_timed_are_refused(device: str) -> None:
    with pytest.raises(AttnInjectError, match="cpu"):
        pick(device)
