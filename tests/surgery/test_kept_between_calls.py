"""What a model keeps on itself from one call to the next: kept, or refused, never lost in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import CheckpointError, RewriteError, attach, inject, load, save

from .. import toys
from ..toys import Residual

WAYS = [pytest.param(inject, id="inject"), pytest.param(attach, id="attach")]
SIZE = (16, 8, 8)


class Causal(nn.Conv2d):
    """A convolution that pads with what it saw last, like those of video codecs: the model clears it after a clip."""

    def __init__(self) -> None:
        super().__init__(16, 16, 3, padding=(0, 1))
        self.seen: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = torch.zeros_like(x[:, :, :2]) if self.seen is None else self.seen
        self.seen = x[:, :, -2:]
        # Decides on a size, so that it may stay a single call.
        return super().forward(torch.cat([before, x], 2)) if x.shape[2] > 1 else x


class Clip(nn.Module):
    """Runs its block on both halves of a map, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Residual(Causal(), nn.ReLU(), toys.conv(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.block(part) for part in x.chunk(2, 2)]
        for module in self.modules():
            if isinstance(module, Causal):
                module.seen = None
        return torch.cat(parts, 2)


@pytest.mark.parametrize("put", WAYS)
def test_a_layer_that_the_model_clears_starts_anew_in_each_call(put: Any) -> None:
    model, x = Clip().eval(), torch.randn(2, *SIZE)
    patched = put(model, "se", input_size=SIZE, reduction=4, init="identity").eval()
    with torch.no_grad():
        assert torch.equal(patched(x), model(x))
        assert torch.equal(patched(x), model(x))
        assert toys.gates_run(patched, x) == 2
        # Two halves: one after the other they are not the same as by themselves.
        assert not torch.equal(model(x)[:, :, 4:], model(torch.cat([x[:, :, 4:]] * 2, 2))[:, :, :4])


class Stream(nn.Module):
    """Adds to each image what it made of the one before; nobody clears it."""

    def __init__(self, home: str) -> None:
        super().__init__()
        self.block = Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))
        self.home = home
        self.last: torch.Tensor | None = None
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.home == "attribute":
            x = x if self.last is None else x + self.last
            self.last = x.detach()
        else:
            x = x + sum(self.seen) if self.seen else x
            self.seen.append(x.detach())
        return self.block(x)


@pytest.mark.parametrize("home", ["attribute", "list"])
def test_a_graph_that_would_forget_is_refused(home: str) -> None:
    with pytest.raises(
        RewriteError,
        match=r"^verification of trace failed: in eval mode a second call gives something else than the model's own "
        r"code, which keeps something from call to call: use attach\(\); in train mode",
    ):
        inject(Stream(home), "se", input_size=SIZE, reduction=4)


@pytest.mark.parametrize("home", ["attribute", "list"])
def test_attach_goes_on_with_what_the_models_code_keeps(home: str) -> None:
    model, x = Stream(home).eval(), torch.randn(2, *SIZE)
    patched = attach(model, "se", input_size=SIZE, reduction=4, init="identity").eval()
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(patched(x), model(x))
        assert toys.gates_run(patched, x) == 1


class Forgetful(Residual):
    """A block that keeps something in the very forward in which the attention is called."""

    last: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.branch(x if self.last is None else x + self.last)
        self.last = x.detach()
        return x + branch * 1.5


class Decides(nn.Sequential):
    """Has no graph, but a recording."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 1e9 else super().forward(x)


class Warm(Residual):
    """Lets its branch in step by step while it trains."""

    step = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.step += 1
        return x + min(1.0, self.step / 10) * self.branch(x)


@pytest.mark.parametrize("around", [nn.Sequential, Decides])
@pytest.mark.parametrize("kind", [Forgetful, Warm])
@pytest.mark.slow
def test_the_code_of_a_block_that_keeps_something_runs_as_it_is(kind: Any, around: Any, tmp_path: Path) -> None:
    def made() -> Any:
        torch.manual_seed(0)
        return around(kind(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16)))

    model, x = made(), torch.randn(2, *SIZE)
    attached = attach(made(), "se", input_size=SIZE, reduction=4, init="identity")
    assert any("its code keeps something from one call to the next" in loss for loss in attached.injection.not_kept)
    save(attached, tmp_path / "net.pt")
    loaded = load(tmp_path / "net.pt", made(), form="module")
    for train in (True, True, False, False):
        expected = model.train(train)(x)
        for each in (attached, loaded):
            assert torch.equal(each.train(train)(x), expected)
    assert toys.gates_run(attached, x) == 1
    with pytest.raises(CheckpointError, match=r"load it with form='module'"):
        load(tmp_path / "net.pt", made())


class Written(Forgetful):
    """What is to be gated, no child of it returns."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.branch(x if self.last is None else x + self.last) + 0.5 * x.relu()
        self.last = x.detach()
        return x + branch.relu()


@pytest.mark.parametrize("around", [nn.Sequential, Decides])
def test_attach_refuses_a_block_that_would_forget(around: Any) -> None:
    model = around(Written(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16)))
    with pytest.raises(RewriteError, match="not what was planned: eval: a second call gives something else"):
        attach(model, "se", input_size=SIZE, reduction=4)


class Counting(Residual):
    """What nobody reads may be kept."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)


@pytest.mark.parametrize("put", WAYS)
def test_what_is_only_counted_is_no_reason(put: Any) -> None:
    model = nn.Sequential(Counting(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16)))
    patched = put(model, "se", input_size=SIZE, reduction=4, init="identity")
    x = torch.randn(2, *SIZE)
    assert torch.equal(patched.eval()(x), model.eval()(x))
    assert toys.gates_run(patched, x) == 1
    assert model[0].calls == 1
