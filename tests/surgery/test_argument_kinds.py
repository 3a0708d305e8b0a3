"""Modules that are called with other arguments in one call than in the next: no graph of theirs holds for both."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attn_inject import attach, inject
from attn_inject.surgery.attachment import attachments_of


class Causal(nn.Conv1d):
    """Looks back over what came before: over its cache, which the first call has not, or over zeros."""

    def forward(self, x: torch.Tensor, cache: torch.Tensor | None = None) -> torch.Tensor:
        before = x.new_zeros(*x.shape[:2], 2) if cache is None else cache
        return super().forward(torch.cat([before, x], dim=2))


class Cached(nn.Module):
    """A residual block of a streaming model (video autoencoders): its convolutions go on from the last chunk's end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Causal(8, 8, 3), Causal(8, 8, 3)

    def forward(self, x: torch.Tensor, caches: dict[nn.Module, torch.Tensor]) -> torch.Tensor:
        y = x
        for conv in (self.first, self.second):
            y = F.silu(y)
            end = y[:, :, -2:].clone()
            y = conv(y, caches.get(conv))
            caches[conv] = end
        return x + y


class Chunks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv1d(3, 8, 1), nn.ModuleList([Cached(), Cached()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        caches: dict[nn.Module, torch.Tensor] = {}
        made = []
        for chunk in self.stem(x).chunk(3, dim=2):
            y = chunk
            for block in self.blocks:
                y = block(y, caches)
            made.append(y)
        return torch.cat(made, dim=2)


def test_attach_gates_every_call_of_a_block_whose_convolutions_have_a_cache_from_the_second_on() -> None:
    model, x = Chunks().eval(), torch.randn(2, 3, 12)
    attached = attach(model, "se", reduction=4, example_inputs=x)
    ran: list[str] = []
    for name, block in attached.blocks.named_children():
        block.se.register_forward_hook(lambda *_, name=name: ran.append(name))
    injected = inject(model, "se", reduction=4, example_inputs=x)
    injected.load_state_dict(attached.state_dict())
    assert torch.equal(attached(x), injected(x))
    assert not torch.equal(attached(x), model(x))
    assert ran == ["0", "1"] * 6
    assert torch.equal(attach(model, "se", reduction=4, example_inputs=x, init="identity")(x), model(x))


def test_the_record_says_why_the_blocks_own_code_runs() -> None:
    attached = attach(Chunks(), "se", reduction=4, example_inputs=torch.randn(2, 3, 12))
    (attachment,) = attachments_of(attached)
    said = attachment.injection.not_kept
    assert any("is not called with the same arguments each time" in each for each in said), said


class Flagged(nn.Module):
    """Runs with another number in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv1d(8, 8, 3, padding=1), nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor, power: int) -> torch.Tensor:
        return x + self.last(torch.relu(self.conv(x)) ** power)


class Turns(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Flagged(), nn.Conv1d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.block(x, 1), 2))


@pytest.mark.parametrize("init", ["paper", "identity"])
def test_a_block_of_two_calls_with_other_numbers(init: str) -> None:
    model, x = Turns().eval(), torch.randn(2, 8, 12)
    attached = attach(model, "eca", example_inputs=x, init=init)
    injected = inject(model, "eca", example_inputs=x, init=init)
    injected.load_state_dict(attached.state_dict())
    assert torch.equal(attached(x), injected(x))
    assert torch.equal(attached(x), model(x)) == (init == "identity")
