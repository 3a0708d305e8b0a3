"""Models whose code writes in place: into its input, into its weights, or where the backward pass would read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_inject import RewriteError, attach, find_sites, inject, load, save, verify

from .. import toys
from ..toys import Residual

WAYS = [inject, attach]


class ForcedNorm(nn.Module):
    """A convolution that writes its normalised weight in train mode, as KarrasUnet's does."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            with torch.no_grad():
                self.weight.copy_(F.normalize(self.weight.flatten(1), dim=1).view_as(self.weight))
        return F.conv2d(x, F.normalize(self.weight.flatten(1), dim=1).view_as(self.weight), padding=1)


class Partial(nn.Module):
    """A convolution of the first channels, written into the map in eval mode alone, as PLKSR's is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = toys.conv(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            return torch.cat([self.conv(x[:, :4]), x[:, 4:]], 1)
        x[:, :4] = self.conv(x[:, :4])
        return x


class Scaled(nn.Module):
    """Scales its input in place, as RCAN does."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x *= 255
        return self.block(x)


@pytest.mark.parametrize("put", WAYS)
def test_weights_that_training_writes_stay_the_callers(put: Any) -> None:
    x = torch.randn(2, 16, 8, 8)
    model = Residual(ForcedNorm(16, 16), nn.ReLU(), ForcedNorm(16, 16))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    patched = put(model, "se", example_inputs=x, reduction=4, copy=True)
    fresh = Residual(ForcedNorm(16, 16), nn.ReLU(), ForcedNorm(16, 16))
    fresh.load_state_dict(before)
    assert verify(fresh, patched).passed
    for held in (model, fresh):
        assert all(torch.equal(weight, before[name]) for name, weight in held.state_dict().items())
    # What it does when it trains is still its own.
    assert toys.gates_run(patched.train(), x) == 1
    weight = dict(patched.named_parameters())["branch.0.weight"]
    assert torch.allclose(weight.flatten(1).norm(dim=1), torch.ones(16))


@pytest.mark.parametrize("put", WAYS)
def test_a_model_without_a_backward_in_eval_mode_is_checked_in_train_mode(put: Any) -> None:
    x = torch.randn(2, 16, 8, 8)
    torch.manual_seed(0)  # hidden units of which some are alive
    # The second block writes over what the first one's gate made.
    blocks = [Residual(toys.conv(16, 16), nn.ReLU(), Partial(), toys.conv(16, 16, 1)) for _ in range(2)]
    model = nn.Sequential(*blocks).eval()
    patched = put(model, "se", example_inputs=x, reduction=4, copy=True)
    checks = {check.name: check for check in verify(model, patched).checks}
    assert all(check.passed for check in checks.values())
    assert checks["gradients"].figure.startswith("4 of 4 new parameters reached, 4 with")
    assert checks["gradients"].figure.endswith(", in train mode alone")
    assert toys.gates_run(patched.eval(), x) == toys.gates_run(patched.train(), x) == 2


@pytest.mark.parametrize("put", WAYS)
@pytest.mark.parametrize("init", ["paper", "identity"])
def test_an_input_that_is_written_stays_the_callers(put: Any, init: str) -> None:
    x = torch.randn(2, 16, 8, 8)
    before = x.clone()
    model = Scaled(Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))).eval()
    patched = put(model, "se", example_inputs=x, reduction=4, init=init, copy=True).eval()
    assert torch.equal(x, before)
    assert verify(model, patched).passed
    assert toys.gates_run(patched, x.clone()) == 1
    if init == "identity":
        assert torch.equal(patched(x.clone()), model(x.clone()))


class ForInference(nn.Module):
    """Asks for no gradients in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(self.training):
            y: torch.Tensor = self.block(x)
            return y


@pytest.mark.parametrize("put", WAYS)
def test_gradients_are_asked_for_where_the_model_trains(put: Any) -> None:
    model = ForInference()
    patched = put(model, "se", input_size=(16, 8, 8), reduction=4, copy=True)
    assert verify(model, patched).passed
    x = torch.randn(2, 16, 8, 8)
    assert toys.gates_run(patched.eval(), x) == toys.gates_run(patched.train(), x) == 1


class NeverTrained(nn.Module):
    """Writes over what its own backward pass would read, in both modes."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.block(x).exp()
        y += 1
        return y


def test_a_model_that_cannot_learn_is_refused_in_one_sentence() -> None:
    with pytest.raises(
        RewriteError, match=r"^verification of gradients failed: no backward pass runs: one of the [^\n]*"
    ):
        inject(NeverTrained(), "se", input_size=(16, 8, 8), reduction=4)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("put", WAYS)
def test_a_spectral_norm_by_a_hook_moves_on(put: Any) -> None:
    model = Residual(toys.conv(16, 16), nn.ReLU(), nn.utils.spectral_norm(toys.conv(16, 16)))
    patched = put(model, "se", input_size=(16, 8, 8), reduction=4, copy=True)
    assert verify(model, patched).passed
    before = patched.state_dict()["branch.2.weight_u"].clone()
    assert toys.gates_run(patched.train(), torch.randn(2, 16, 8, 8)) == 1
    assert not torch.equal(patched.state_dict()["branch.2.weight_u"], before)


@pytest.mark.parametrize("put", WAYS)
def test_weights_of_a_scope_that_training_writes_stay_the_callers(put: Any) -> None:
    """The whole is tried in train mode too."""
    model = nn.Sequential(nn.Sequential(toys.conv(3, 16)), Residual(ForcedNorm(16, 16), nn.ReLU(), ForcedNorm(16, 16)))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    patched = put(model, "se", scope="1", example_inputs=torch.randn(2, 16, 8, 8), reduction=4)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert toys.gates_run(patched.eval(), torch.randn(2, 3, 8, 8)) == 1


def _by_augmented(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    y[:, :4] += x[:, :4]
    return y


def _by_method(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    y[:, :4].add_(x[:, :4])
    return y


def _by_name(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    part = y[:, :4]
    part += x[:, :4]
    return y


def _part_of_a_part(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    y[:, :6][:, :4].add_(x[:, :4])
    return y.relu()


def _twice(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    part = y[:, :4]
    part += x[:, :4]
    part *= 2
    return y


def _into_the_shortcut(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    part = x[:, :4]
    part.add_(y[:, :4])
    return x


class Joined(nn.Module):
    def __init__(self, join: Any, *, decides: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))
        self.join, self.decides = join, decides

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.decides and x.sum() > 1e9:
            return x
        return self.join(x, self.branch(x))


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(
    "join", [_by_augmented, _by_method, _by_name, _part_of_a_part, _twice, _into_the_shortcut], ids=lambda f: f.__name__
)
@pytest.mark.slow
def test_an_add_into_a_part_of_a_map_is_an_add_to_the_map(join: Any, recorded: bool) -> None:
    model, x = Joined(join, decides=recorded).eval(), torch.randn(2, 16, 8, 8)
    sites = find_sites(model, example_inputs=x)
    assert [(site.block, site.node) for site in sites] == [("", "branch_2")]
    assert bool(sites.recorded) is recorded
    for put in [attach] if recorded else WAYS:
        same = put(model, "se", example_inputs=x, reduction=4, init="identity").eval()
        gated = put(model, "se", example_inputs=x, reduction=4).eval()
        with torch.no_grad():
            assert torch.equal(same(x), model(x))
            torch.testing.assert_close(gated(x), join(x, gated.se(model.branch(x))))


class Pathways(nn.Module):
    """Two maps in a list, which passes through a layer, and in which the block writes, as SlowFast's do."""

    def __init__(self) -> None:
        super().__init__()
        self.fusion = nn.Identity()
        self.blocks = nn.ModuleList(Residual(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16)) for _ in range(2))

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        maps = self.fusion([maps[0] * 2, maps[1]])
        for index, block in enumerate(self.blocks):
            maps[index] = block(maps[index])
        return maps[0] + maps[1]


@pytest.mark.parametrize("put", WAYS)
def test_a_list_that_a_layer_hands_on_may_be_written_into(put: Any) -> None:
    model, maps = Pathways().eval(), [torch.randn(2, 16, 8, 8) for _ in range(2)]
    patched = put(model, "se", example_inputs=(maps,), reduction=4, init="identity").eval()
    assert toys.gates_run(patched, list(maps)) == 2
    with torch.no_grad():
        assert torch.equal(patched(list(maps)), model(list(maps)))


def _saturated(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    y[:, :4].sigmoid_()
    return (x + y).relu()


def _read_before(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    part = y[:, :4]
    part.add_(1)
    return x + y * part.square().mean()


def _without_gradients(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y[:, :4].clamp_(-0.1, 0.1)
    return x + y


def _a_copy(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    y[True].add_(1)
    return x + y


@pytest.mark.parametrize("put", WAYS)
@pytest.mark.parametrize(
    "join", [_saturated, _read_before, _without_gradients, _a_copy], ids=lambda join: join.__name__
)
def test_what_is_noted_of_a_write_writes_nothing(join: Any, put: Any) -> None:
    """Gradients come back as in the model's own code, to the bit."""
    torch.manual_seed(0)
    model, x = Joined(join, decides=False), torch.randn(2, 16, 8, 8)
    patched = put(model, "se", example_inputs=x, reduction=4, init="identity", copy=True)
    for each in (model, patched):
        each(x).square().sum().backward()
    grads = {name: parameter.grad for name, parameter in patched.named_parameters()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, grads[name])


class Watched(Residual):
    """Notes the range of what it sees in eval mode too, as observers do before a network is quantized."""

    def __init__(self) -> None:
        super().__init__(toys.conv(16, 16), nn.ReLU(), toys.conv(16, 16))
        self.largest: torch.Tensor
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.largest.copy_(torch.maximum(self.largest, x.detach().abs().max()))
        return super().forward(x)


class OwnStatistics(Residual):
    """Keeps the statistics of a norm in parameters that want no gradient, as code for few shots does."""

    def __init__(self) -> None:
        super().__init__(nn.ReLU(), toys.conv(16, 16))
        self.mean = nn.Parameter(torch.zeros(16), requires_grad=False)
        self.var = nn.Parameter(torch.ones(16), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(F.batch_norm(x, self.mean, self.var, training=True))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Watched, OwnStatistics])
@pytest.mark.slow
def test_what_a_run_of_ours_would_write_is_left_as_it_was(kind: type[nn.Module], way: Any, tmp_path: Path) -> None:
    model, x = nn.Sequential(toys.conv(16, 16), kind()), torch.rand(2, 16, 8, 8)
    before = {name: held.clone() for name, held in model.state_dict().items()}
    patched = way(model, "se", input_size=(16, 8, 8), reduction=4, init="identity", copy=True)
    way(model, "se", input_size=(16, 8, 8), reduction=4)
    save(patched, tmp_path / "net.pt")
    for form in ("graph", "module"):
        load(tmp_path / "net.pt", model, form=form)
    for each in (model, patched):
        held = each.state_dict()
        assert all(torch.equal(held[name], tensor) for name, tensor in before.items())
    assert torch.equal(patched.eval()(x), model.eval()(x))
    held = patched.state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in model.state_dict().items())
    assert not all(torch.equal(held[name], tensor) for name, tensor in before.items())
