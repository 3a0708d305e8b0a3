"""Values without arithmetic: what moves stays on meta, and devices are those of the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves

from attn_inject.tracing.nodes import value_of
from attn_inject.tracing.recurrent import of_one_step
from attn_inject.tracing.trace import trace
from attn_inject.tracing.values import Values, fetch, to_meta

from ..sites.graphs import Net, read
from ..toys import conv


def test_a_value_moves_nowhere_and_knows_the_models_device() -> None:
    net = Net(lambda m, x: m.conv(x.to("cpu").cpu().to(m.conv.weight.device)), conv=conv(3, 4))
    seen = read(net, (2, 3, 8, 8))
    assert all(value_of(node).is_meta for node in seen.graph.nodes if isinstance(value_of(node), torch.Tensor))
    assert value_of(seen.last).shape == (2, 4, 8, 8)


def test_a_size_stays_a_size() -> None:
    net = Net(lambda m, x: x.new(x.size()).normal_() + x)
    assert value_of(read(net, (2, 3, 8, 8)).last).shape == (2, 3, 8, 8)


def test_a_weight_has_one_stand_in() -> None:
    net = Net(lambda m, x: (m.w, m.w, x), w=torch.ones(3))
    first, second, _ = value_of(read(net, (1,)).output)
    assert first is second


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("size", [(2, 5, 8), (5, 8), (2, 1, 8)])
@pytest.mark.parametrize(
    "options", [{}, {"batch_first": True}, {"num_layers": 2, "bidirectional": True, "batch_first": True}]
)
def test_one_step_of_a_recurrent_layer_tells_of_all(kind: Any, size: Any, options: Any) -> None:
    layer = kind(8, 16, **options)
    expected = tree_leaves(layer(torch.rand(size)))
    seen = read(Net(lambda m, x: m.layer(x), layer=layer), size)
    made = tree_leaves(value_of(next(node for node in seen.graph.nodes if node.op == "call_module")))
    assert [(m.shape, m.stride(), m.dtype) for m in made] == [(e.shape, e.stride(), e.dtype) for e in expected]


class OwnSteps(nn.GRU):
    def forward(self, x: Any, state: Any = None) -> Any:
        out, last = super().forward(x, state)
        return out[:, ::2], last


def test_other_recurrent_layers_and_packed_sequences_are_read_as_they_are() -> None:
    seen = read(Net(lambda m, x: m.layer(x)[0], layer=OwnSteps(8, 16, batch_first=True)), (2, 6, 8))
    assert value_of(seen.last).shape == (2, 3, 16)
    packed = nn.utils.rnn.pack_sequence([torch.rand(3, 8, device="meta"), torch.rand(2, 8, device="meta")])
    assert of_one_step(nn.GRU(8, 16), packed) is None


def test_a_long_sequence_is_read_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    forward = nn.LSTM.forward

    def counted(self: nn.LSTM, x: Any, *rest: Any) -> Any:
        steps.append(x.shape[1])
        return forward(self, x, *rest)

    monkeypatch.setattr(nn.LSTM, "forward", counted)
    monkeypatch.setattr("attn_inject.tracing.recurrent._FORWARDS", (counted,))
    read(Net(lambda m, x: m.layer(x), layer=nn.LSTM(8, 16, batch_first=True)), (2, 1000, 8))
    assert set(steps) == {1}


def test_structures_keep_their_form() -> None:
    given = to_meta({"a": [torch.ones(2), 3], "b": (torch.ones(1),)})
    assert given["a"][0].is_meta
    assert given["a"][1] == 3
    assert given["b"][0].is_meta
    assert fetch(nn.Sequential(nn.Linear(2, 3)), "0.weight").shape == (3, 2)


def test_a_single_number_keeps_its_value_and_is_not_changed() -> None:
    net = Net(lambda m, x: x.new_full((2, 2), m.strides[0].mul_(2)))
    strides = torch.tensor([8.0, 16.0])
    vars(net)["strides"] = [strides[0], strides[1]]
    graph = trace(net, inputs=(torch.zeros(1, 3),), modes=("eval",)).graphs["eval"]
    assert value_of(next(iter(reversed(graph.nodes)))).shape == (2, 2)
    assert strides[0] == 8


class OwnNorm(nn.BatchNorm2d):
    """Norm and activation in one, by code of its own that a trace keeps whole."""

    traced_whole = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=self.training, eps=self.eps
        )
        return normed.relu_()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}])
def test_a_norm_within_somebodys_layer_gives_what_torch_gives(
    options: dict[str, bool], layout: torch.memory_format, training: bool
) -> None:
    norm = OwnNorm(6, **options).train(training)
    norm.training |= norm.running_mean is None  # as torch's own forward has it
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2, 6, 5, 4).to(dtype).contiguous(memory_format=layout)
        ours, theirs = Values(norm, {})._call_module(norm, (x.to("meta"),), {}), norm(x)
        assert ours.is_meta
        assert (ours.shape, ours.stride(), ours.dtype) == (theirs.shape, theirs.stride(), theirs.dtype)


def test_a_norm_within_somebodys_layer_refuses_what_torch_refuses() -> None:
    norm = OwnNorm(6)
    values = Values(norm, {})
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        values._call_module(norm.train(), (torch.empty(1, 6, 1, 1, device="meta"),), {})
    with pytest.raises(RuntimeError, match="6"):
        values._call_module(norm, (torch.empty(2, 5, 4, 4, device="meta"),), {})
