"""Traffic, activations and peak memory on nets small enough to count by hand; float32, so four bytes an element."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from attn_inject import TraceError
from attn_inject.cost.amounts import Cost
from attn_inject.cost.counting import count

X = torch.empty(1, 2, 4, 4, device="meta")
MAP = 32 * 4  # bytes of X


class Gate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.mean((2, 3), keepdim=True).sigmoid()


class Twice(nn.Module):
    """One gate, called twice; an out-of-place add between."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate(x) + self.gate(x)


def test_what_a_gate_moves() -> None:
    """The pool reads a map, the product reads and writes one; the pooled vector of two elements goes in between."""
    vector = 2 * 4
    total = count(Gate(), (X,)).total
    assert total.bytes_read == MAP + vector + (MAP + vector)
    assert total.bytes_written == vector + vector + MAP
    assert total.activations == 2 + 2 + 32
    assert total.activation_bytes == 4 * total.activations
    assert total.flops == 32 + 2 + 32


def test_views_move_nothing_and_an_expanded_operand_is_read_once() -> None:
    class Views(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            one = x.flatten()[:1].view(1, 1, 1, 1).expand_as(x)
            return x + one

    total = count(Views(), (X,)).total
    assert total == Cost(flops=32, activations=32, activation_bytes=MAP, bytes_read=MAP + 4, bytes_written=MAP)


def test_peak_counts_what_is_alive_at_once() -> None:
    chain = nn.Sequential(*(nn.ReLU() for _ in range(5)))
    assert count(chain, (X,)).peak_bytes == 3 * MAP  # the input, an operand, a result
    in_place = nn.Sequential(nn.ReLU(), *(nn.ReLU(inplace=True) for _ in range(4)))
    assert count(in_place, (X,)).peak_bytes == 2 * MAP


def test_parts_are_counted_over_all_calls_and_the_watching_leaves_no_hook() -> None:
    model = Twice()
    counted = count(model, (X,), watched=["gate"])
    assert counted.parts["gate"].flops == 2 * count(Gate(), (X,)).total.flops
    assert counted.total.flops == counted.parts["gate"].flops + 32
    assert not model.gate._forward_hooks
    assert not model.gate._forward_pre_hooks


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    identities = [id(parameter) for parameter in model.parameters()]
    count(model, (torch.randn(2, 2, 8, 8),))
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert [id(parameter) for parameter in model.parameters()] == identities
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    assert all(not parameter.is_meta for parameter in model.parameters())


def test_constants_that_are_no_buffers_are_stood_in_for() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = torch.tensor([0.5, 0.25]).view(1, 2, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - self.mean

    model = Constant()
    assert count(model, (X,)).total.flops == 32
    assert model.mean.flatten().tolist() == [0.5, 0.25]


def test_bytes_follow_the_type() -> None:
    full, half = (count(nn.ReLU(), (X,), dtype=dtype).total for dtype in (None, torch.float16))
    assert half.bytes_read == full.bytes_read // 2
    assert half.flops == full.flops


class Deciding(nn.Module):
    """Three convolutions where the brightest pixel is below 2, one where it is not; notes and draws on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.ran = nn.Conv2d(2, 2, 1), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.ran += 1
        with torch.no_grad():
            self.conv.weight.add_(torch.rand(()))
        for _ in range(3 if x.max() < 2 else 1):
            x = self.conv(x)
        return x[x > 0]


def test_a_model_that_decides_on_values_is_counted_on_a_run_that_leaves_nothing_behind() -> None:
    model = Deciding()
    weights, state = model.conv.weight.detach().clone(), torch.get_rng_state()
    made = count(model, (X,), watched=["conv"])
    # Each is 1x1 from 2 to 2 channels.
    assert made.parts["conv"].macs == made.total.macs == 3 * 4 * X[0, 0].numel()
    assert made.of_data
    assert count(model, (X,)).total == count(model, (X,)).total
    assert not count(nn.ReLU(), (X,)).of_data
    assert torch.equal(model.conv.weight, weights)
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.ran, model.training) == (0, True)


def test_a_model_that_needs_values_in_another_type_or_without_weights_is_refused() -> None:
    with pytest.raises(TraceError, match="without real data"):
        count(Deciding(), (X,), dtype=torch.float16)
    with torch.device("meta"):
        model = Deciding()
    with pytest.raises(TraceError, match="without real data"):
        count(model, (X,))


def test_an_input_of_the_wrong_shape_is_refused_with_the_shape() -> None:
    with pytest.raises(TraceError, match=r"shape \(1, 2, 4, 4\)"):
        count(nn.Conv2d(3, 4, 1), (X,))


def test_what_is_only_written_is_not_read() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x + 1
            return torch.addcmul(x, y, y[:, :, :1, :1], out=y)

    x = torch.empty(2, 3, 4, 4)
    size = x.numel() * 4
    total = count(Net(), (x,)).total
    assert (total.bytes_read, total.bytes_written) == (size + 2 * size + 2 * 3 * 4, 2 * size)
