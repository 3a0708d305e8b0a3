"""The order and the bookkeeping of a race. The clock is simulated: how fast this machine is proves nothing."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
from torch import nn

from attn_inject import AttnInjectError
from attn_inject.cost.device import Device, pick
from attn_inject.cost.latency import PAIRS, BenchSettings, Contest
from attn_inject.cost.shares import module_seconds
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
    contest = Contest(model, model, image(3, 8, 8), BenchSettings(device="cpu", seconds=0.05))
    order = simulated(monkeypatch, contest, [1e-3, 1e-3])
    race = contest.inference()
    warm, turns = order[:2], order[2:]
    assert warm == [0, 1]
    assert turns[:8] == [0, 1, 1, 0, 0, 1, 1, 0]
    assert len(turns) == 2 * race.pairs
    assert race.pairs >= PAIRS
    assert race.pairs % 2 == 0


def test_a_drifting_machine_favours_nobody(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    contest = Contest(model, model, image(3, 8, 8), BenchSettings(device="cpu", seconds=0.05))
    simulated(monkeypatch, contest, [1e-3, 1.1e-3], drift=0.001)
    race = contest.inference()
    assert race.ratio.median == pytest.approx(1.1, rel=1e-3)
    assert race.ratio.low <= 1.1 <= race.ratio.high


def test_a_model_against_itself_is_not_told_apart_ten_times_out_of_ten(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(10):
        contest = Contest(model, model, image(3, 8, 8), BenchSettings(device="cpu", seconds=0.02))
        simulated(monkeypatch, contest, [1e-3, 1e-3], noise=0.05 + 0.01 * seed, drift=1e-4, seed=seed)
        ratio = contest.inference().ratio
        assert ratio.low <= 1 <= ratio.high


def test_a_real_difference_is_seen(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    contest = Contest(model, model, image(3, 8, 8), BenchSettings(device="cpu", seconds=0.05))
    simulated(monkeypatch, contest, [1e-3, 1.2e-3], noise=0.02)
    assert contest.inference().ratio.low > 1


@pytest.mark.bench
def test_a_model_against_itself_on_the_real_clock(model: nn.Module) -> None:
    for _ in range(10):
        ratio = Contest(model, model, image(3, 8, 8), BenchSettings(device="cpu", seconds=1.0)).inference().ratio
        assert ratio.low <= 1 <= ratio.high


def test_the_callers_models_are_untouched(model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    settings = BenchSettings(device="cpu", dtype=torch.bfloat16, batch=3, channels_last=True, seconds=0.02)
    contest = Contest(model, model, image(3, 8, 8), settings)
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
    race = Contest(model, model, image(3, 8, 8), BenchSettings(device="cpu", seconds=0.01)).inference()
    assert race.before.peak_bytes is None
    assert race.after.peak_bytes is None


def test_shares_are_of_every_call_and_leave_no_hook(model: nn.Module) -> None:
    model.eval()
    seconds = module_seconds(model, ["0", "4"], Inputs((torch.zeros(2, 3, 8, 8),)), pick("cpu"), 0.01)
    assert set(seconds) == {"0", "4"}
    assert all(value > 0 for value in seconds.values())
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks


@pytest.mark.parametrize("device", ["nonsense", "meta"])
def test_devices_that_cannot_be_timed_are_refused(device: str) -> None:
    with pytest.raises(AttnInjectError, match="cpu"):
        pick(device)
