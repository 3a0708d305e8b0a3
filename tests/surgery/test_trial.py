"""What a model's own code and its graph give on real values; convolutions that were computed once stay honest."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torchvision
from torch import fx, nn

from attn_inject import inject
from attn_inject.surgery.trial import Trial
from attn_inject.tracing.injected import InjectedModule


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        # In place, after the convolution's output is known; twice the same module.
        y = self.conv1(x).relu_()
        x += self.norm(self.conv2(self.conv1(y)))
        return x


@pytest.fixture
def trial() -> tuple[Trial, InjectedModule]:
    torch.manual_seed(0)
    model = Net()
    patched = inject(model, "se", reduction=2, input_size=16)
    return Trial(model, patched), patched


X = (torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)),)


def _convolutions(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each convolution computes."""
    ran: Counter[int] = Counter()
    forward = nn.Conv2d.forward

    def counted(self: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        ran[id(self)] += 1
        return forward(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", counted)
    return ran


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_both_give_the_same_and_convolutions_run_once(
    mode: str, trial: tuple[Trial, InjectedModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = _convolutions(monkeypatch)
    code = [*trial[0].of_code(mode, X), *trial[0].statistics()]
    assert sorted(ran.values()) == [1, 1, 2]
    graph = [*trial[0].of_graph(mode, X), *trial[0].statistics()]
    assert sorted(ran.values()) == [1, 1, 2]
    assert all(map(torch.equal, code, graph))
    assert (int(code[-1]) == 1) == (mode == "train")


def _edited(patched: InjectedModule, mode: str = "eval") -> fx.Graph:
    return patched.pristine_graph_of(mode)


def test_a_graph_that_gives_a_convolution_something_else_is_seen(
    trial: tuple[Trial, InjectedModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = trial[0].of_code("eval", X)
    graph = _edited(trial[1])
    stem = next(node for node in graph.nodes if node.target == "stem")
    with graph.inserting_before(stem):
        stem.update_arg(0, graph.call_function(torch.neg, (stem.args[0],)))
    ran = _convolutions(monkeypatch)
    assert not torch.equal(trial[0].of_graph("eval", X)[0], code[0])
    assert sum(ran.values()) == 4


def test_a_graph_without_the_code_s_autocast_is_seen() -> None:
    class Cast(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x)

    torch.manual_seed(0)
    model = Cast()
    patched = inject(model, "se", reduction=2, input_size=16)
    trial = Trial(model, patched)
    code = trial.of_code("eval", X)
    assert torch.equal(trial.of_graph("eval", X)[0], code[0])
    graph = _edited(patched)
    for node in reversed(list(graph.nodes)):
        if "autocast" in str(node.target) and not node.users:
            graph.erase_node(node)
    for node in list(graph.nodes):
        if "autocast" in str(node.target):
            graph.erase_node(node)
    assert not torch.equal(trial.of_graph("eval", X)[0].float(), code[0].float())


def test_the_model_is_left_as_it_was() -> None:
    model = torchvision.models.resnet18().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trial = Trial(model, inject(model, "eca"))
    trial.of_code("train", (torch.randn(2, 3, 64, 64),))
    trial.of_graph("train", (torch.randn(2, 3, 64, 64),))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
