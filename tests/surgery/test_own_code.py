"""What runs a class's own code past a rewritten forward: it goes around the attention, or there is a sentence."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from attn_inject import PlanError, attach, detach, inject
from attn_inject.attention.gating import ChannelGate
from attn_inject.errors import ArgumentError

from ..toys import Toy, conv, gates_run

SMALL = (3, 16, 16)
relu = torch.relu


class Block(nn.Module):
    """Runs by several ways, by settings and by methods."""

    grad_checkpointing = False

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = conv(16, 16), nn.BatchNorm2d(16), conv(16, 16)
        self.scale = 1.0
        self.parallel = False
        self.reentrant = False
        self.extra: nn.Module | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.grad_checkpointing and x.requires_grad:
            y = torch.utils.checkpoint.checkpoint(self.branch, x, use_reentrant=self.reentrant)
        else:
            y = self.branch(x)
        return x + y * self.scale

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        if self.extra is not None:
            x = self.extra(x)
        y = relu(self.norm(self.a(x)))
        return self.a(y) if self.parallel else self.b(y)

    def twice(self, x: torch.Tensor) -> torch.Tensor:
        return self(self.forward(x))

    def mixed(self, x: torch.Tensor) -> torch.Tensor:
        return self(x) + self.branch(x)

    def steps(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        yield self.a(x)
        yield self.branch(x)


class Closing(Block):
    """Gives a function within its forward to the checkpoint."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def inner(x: torch.Tensor) -> torch.Tensor:
            return self.branch(x) if self.extra is not None else self.b(relu(self.norm(self.a(x))))

        if self.grad_checkpointing and x.requires_grad:
            return x + torch.utils.checkpoint.checkpoint(inner, x, use_reentrant=self.reentrant) * self.scale
        return x + inner(x) * self.scale


class Functional(Block):
    """No child gives what is gated."""

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(super().branch(x))


def _attached(kind: type[nn.Module] = Block) -> tuple[Any, Any, list[nn.Module]]:
    """(a model with such a block, the block, the gates as they run)."""
    torch.manual_seed(0)
    attached: Any = attach(Toy(nn.Sequential(kind())), "se", reduction=4, input_size=SMALL)
    ran: list[nn.Module] = []
    for module in attached.modules():
        if isinstance(module, ChannelGate):
            # Before it, since a checkpoint stops as soon as it has what it wants.
            module.register_forward_pre_hook(lambda gate, *_: ran.append(gate))
    return attached, attached.body[0], ran


def _gradients(model: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    model(image).square().sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


IMAGE = torch.randn(2, *SMALL, generator=torch.Generator().manual_seed(0))


def test_a_setting_that_was_changed_takes_effect_around_the_attention() -> None:
    attached: Any = attach(Toy(nn.Sequential(Block(), Block())), "se", reduction=4, input_size=SMALL)
    block = attached.body[0]
    code = inspect.getsource(type(block).forward)
    assert "self.scale != 1.0" in code
    assert "self.parallel is not False" in code
    before = attached.eval()(IMAGE)
    x = torch.randn(1, 16, 8, 8)
    for twin in (block, copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        expected = twin(x) - x
        twin.scale = 2.0
        assert torch.allclose(twin(x) - x, 2 * expected, atol=1e-5)
        twin.scale = 1.0
    block.extra = nn.Identity()
    assert torch.equal(attached(IMAGE), before)
    block.extra = nn.Tanh()
    assert not torch.equal(attached(IMAGE), before)


def test_a_setting_that_leads_past_the_attention_is_refused() -> None:
    attached, block, _ = _attached()
    block.parallel = True
    message = (
        "the forward with attention was made with Block.parallel=False and is given True: "
        "detach() it, and attach with the new setting"
    )
    with pytest.raises(ArgumentError) as caught:
        attached(IMAGE)
    assert str(caught.value) == message
    again: Any = attach(detach(attached), "se", reduction=4, input_size=SMALL)
    again(IMAGE)
    assert again.body[0].parallel


def test_a_setting_of_a_block_whose_gated_value_no_child_gives_is_refused() -> None:
    attached, block, _ = _attached(Functional)
    attached(IMAGE)
    block.scale = 2.0
    with pytest.raises(ArgumentError, match=r"made with Functional\.scale=1\.0 and is given 2\.0"):
        attached(IMAGE)


@pytest.mark.parametrize("kind", [Block, Closing])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_within_a_block_run_the_attention_again(kind: type[Block], reentrant: bool) -> None:
    attached, _, ran = _attached(kind)
    attached.train()
    for block in attached.body:
        block.reentrant = reentrant
    plain = _gradients(attached, IMAGE)
    for block in attached.body:
        block.grad_checkpointing = True
    ran.clear()
    checkpointed = _gradients(attached, IMAGE)
    assert len(ran) == 2
    assert len(plain) == len(checkpointed)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, checkpointed, strict=True))
    # Its children by themselves are as they were.
    x = torch.randn(1, 16, 8, 8)
    assert torch.equal(attached.body[0].b(x), detach(attached).body[0].b(x))
    assert not any(module._forward_hooks for module in detach(attached).body.modules())


def test_methods_that_run_the_blocks_own_code_go_around_the_attention() -> None:
    _, block, ran = _attached()
    block.eval()
    x = torch.randn(1, 16, 8, 8)
    expected = block(x)
    ran.clear()
    assert torch.allclose(x + block.branch(x), expected)
    assert len(ran) == 1
    # What calls the forward goes on with it, and nothing is gated twice.
    for run, times in ((block.twice, 2), (block.mixed, 2)):
        ran.clear()
        run(x)
        assert len(ran) == times
    assert torch.allclose(block.twice(x), block(block(x)))
    assert torch.allclose(block.mixed(x), expected + expected - x, atol=1e-6)
    ran.clear()
    assert torch.allclose(list(block.steps(x))[1], expected - x, atol=1e-6)
    assert len(ran) == 1
    assert inspect.signature(block.branch) == inspect.signature(Block().branch)


def test_methods_that_no_child_could_gate_are_refused() -> None:
    _, block, _ = _attached(Functional)
    with pytest.raises(PlanError) as caught:
        block.branch(torch.randn(1, 16, 8, 8))
    assert str(caught.value) == (
        "branch() of Functional runs the class's own code, which goes past the attention that attach put in: "
        "call the module itself"
    )


class Whole(nn.Module):
    """A network whose own forward has the blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 16), conv(16, 16), conv(16, 16)
        self.head = nn.Linear(16, 5)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = relu(self.stem(x))
        return x + self.b(relu(self.a(x)))

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.head(x.flatten(2).mean(2))
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))

    def reset(self) -> None:
        self.head = nn.Linear(16, 7)


def test_the_methods_of_a_whole_network_see_the_attention_in_its_own_code() -> None:
    torch.manual_seed(0)
    model = Whole().eval()
    attached: Any = attach(model, "se", reduction=4, input_size=SMALL)
    assert torch.allclose(attached.forward_head(attached.forward_features(IMAGE)), attached(IMAGE))
    assert not torch.allclose(attached.forward_features(IMAGE), model.forward_features(IMAGE))
    attached.reset()
    assert attached(IMAGE).shape == (2, 7)


class Frozen(nn.Module):
    """Asks a norm that it holds for its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = conv(16, 16), nn.BatchNorm2d(16), conv(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = self.norm
        y = nn.functional.batch_norm(
            self.a(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training
        )
        return x + self.b(relu(y))


def test_norms_that_stay_in_eval_do_so_where_a_block_asks_them() -> None:
    attached, block, ran = _attached(Frozen)
    attached.train()
    attached.body[0].norm.eval()
    before = block.norm.running_mean.clone()
    attached(IMAGE)
    assert torch.equal(block.norm.running_mean, before)
    assert len(ran) == 1
    attached.train()(IMAGE)
    assert not torch.equal(block.norm.running_mean, before)


def test_a_block_that_somebody_checkpoints_from_outside_is_called() -> None:
    _, block, ran = _attached()
    x = torch.randn(1, 16, 8, 8, requires_grad=True)
    torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False).sum().backward()
    assert len(ran) == 2
    assert block.se.fc1.weight.grad is not None


@pytest.mark.parametrize("put", [inject, attach])
def test_statistics_that_a_block_reads_itself_are_the_norms(put: Any) -> None:
    """Not a copy that a conversion or a file would leave behind."""
    model = Toy(nn.Sequential(Frozen()))
    patched: Any = put(model, "se", reduction=4, input_size=SMALL, copy=True)
    assert set(patched.state_dict()) == {*model.state_dict(), "body.0.se.fc1.weight", "body.0.se.fc2.weight"}
    other = copy.deepcopy(patched).double().train()
    norm = other.get_submodule("body.0.norm")
    before = norm.running_mean.clone()
    assert gates_run(other, IMAGE.double()) == 1
    assert not torch.equal(norm.running_mean, before)
