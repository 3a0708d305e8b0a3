"""Channel attention that a block has already, in the spellings that people's own code uses."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_inject import find_sites, inject

from ..toys import Lambda, Residual, Toy, conv

Gate = Callable[[Tensor, Tensor], Tensor]  # (map, logits of shape (N, C)) -> gated map


def _in_place(x: Tensor, logits: Tensor) -> Tensor:
    x *= torch.sigmoid(logits)[:, :, None, None]
    return x


SPELLINGS: dict[str, Gate] = {
    "broadcast": lambda x, logits: x * torch.sigmoid(logits)[:, :, None, None],
    "gate first": lambda x, logits: logits.sigmoid().view(2, 16, 1, 1) * x,
    "expand_as": lambda x, logits: x * torch.sigmoid(logits).view(2, 16, 1, 1).expand_as(x),
    "expand": lambda x, logits: torch.mul(x, torch.sigmoid(logits)[..., None, None].expand(-1, -1, 16, 16)),
    "broadcast_to": lambda x, logits: x * torch.sigmoid(logits)[..., None, None].broadcast_to(x.shape),
    "upsampled": lambda x, logits: x * F.interpolate(torch.sigmoid(logits)[..., None, None], size=x.shape[2:]),
    "in place": _in_place,
    "mul_": lambda x, logits: x.mul_(F.hardsigmoid(logits)[:, :, None, None]),
    "relu6": lambda x, logits: x * (F.relu6(logits + 3) / 6).reshape(2, 16, 1, 1),
    "relu6 times": lambda x, logits: x * (F.relu6(logits + 3) * (1 / 6))[..., None, None],
    "doubled": lambda x, logits: x * 2.0 * (2 * torch.sigmoid(logits))[:, :, None, None],
    "around one": lambda x, logits: x * (1 + torch.tanh(logits))[:, :, None, None],
    "channels last": lambda x, logits: (x.permute(0, 2, 3, 1) * torch.sigmoid(logits)[:, None, None]).permute(
        0, 3, 1, 2
    ),
}


def _response_norm(x: Tensor, logits: Tensor) -> Tensor:
    """ConvNeXt V2's global response normalisation."""
    response = x.norm(p=2, dim=(2, 3), keepdim=True)
    return x + x * (response / (response.mean(1, keepdim=True) + 1e-6))


OTHERS: dict[str, Gate] = {
    "response norm": _response_norm,
    "no gate": lambda x, logits: x,
    "affine": lambda x, logits: x * (0.5 * logits)[:, :, None, None],
    "spatial": lambda x, logits: x * torch.sigmoid(x.mean(1, keepdim=True)),
    "spatial, spread": lambda x, logits: x * torch.sigmoid(x.mean(1, keepdim=True)).expand_as(x),
    "every position": lambda x, logits: x * torch.sigmoid(x),
    "added": lambda x, logits: x + torch.sigmoid(logits)[:, :, None, None],
}

# What is left of a spelling without its gate, where that is not the map itself.
KEPT: dict[str, Gate] = {"doubled": lambda x, logits: x * 2.0}


class Attention(Lambda):
    """Squeeze, two layers, and what `gate` does with the logits."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(
            lambda m, x: gate(x, m.up(torch.relu(m.down(x.mean((2, 3)))))),
            down=nn.Linear(16, 4),
            up=nn.Linear(4, 16),
        )


def _net(gate: Gate) -> nn.Module:
    torch.manual_seed(0)
    block = Lambda(lambda m, x: x + m.se(m.bn(m.b(torch.relu(m.a(x))))), a=conv(16, 16), b=conv(16, 16))
    block.bn, block.se = nn.BatchNorm2d(16), Attention(gate)
    return Toy(block).eval()


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.slow
def test_a_gate_is_recognised_and_taken_out(spelling: str) -> None:
    model = _net(SPELLINGS[spelling])
    (site,) = find_sites(model, kinds=("attention",), example_inputs=torch.zeros(2, 3, 16, 16))
    assert (site.block, site.channels) == ("body.se", 16)
    stripped = inject(model, "none", existing="replace", example_inputs=torch.zeros(2, 3, 16, 16))
    plain = _net(KEPT.get(spelling, OTHERS["no gate"]))
    plain.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(stripped.eval()(x), expected := plain(x))
    assert not torch.allclose(model(x), expected, atol=1e-3)
    swapped = inject(model, "eca", existing="replace", example_inputs=torch.zeros(2, 3, 16, 16))
    # A module that does more than gate stays, with the successor inside.
    home = "body.se" if spelling == "channels last" else "body"
    assert [i.module for i in swapped.injection.plan.insertions] == [f"{home}.eca"]


@pytest.mark.parametrize("spelling", OTHERS)
def test_what_is_no_channel_gate_is_not(spelling: str) -> None:
    model = _net(OTHERS[spelling])
    assert not find_sites(model, kinds=("attention",), example_inputs=torch.zeros(2, 3, 16, 16))


class Modulated(nn.Module):
    """A convolution whose weights a style scales and then brings to one length: StyleGAN's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 16, 16, 3, 3))
        self.style = nn.Linear(8, 16)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        weights = self.weight * self.style(style)[:, None, :, None, None]
        weights = weights * torch.rsqrt(weights.pow(2).sum([2, 3, 4]) + 1e-8)[..., None, None, None]
        maps = x.reshape(1, -1, *x.shape[2:])
        return F.conv2d(maps, weights.flatten(0, 1), padding=1, groups=len(x)).view_as(x)


class Styled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(16, 16)
        self.first, self.second = Modulated(), Modulated()

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        x = self.stem(x)
        return x + F.leaky_relu(self.second(F.leaky_relu(self.first(x, style), 0.2), style), 0.2)


def test_weights_that_a_style_scales_are_no_attention_of_the_block() -> None:
    given = (torch.randn(2, 16, 8, 8), torch.randn(2, 8))
    (site,) = find_sites(Styled(), example_inputs=given)
    assert site.existing == ""
    assert len(inject(Styled(), "eca", example_inputs=given, existing="skip").injection.plan.insertions) == 1


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.factors(x))


@pytest.mark.parametrize("last", [True, False])
def test_what_blocks_within_a_block_have_is_theirs(last: bool) -> None:
    """A group of blocks with attention, and a skip around the group (RCAN)."""

    def group() -> nn.Module:
        blocks = [Residual(conv(16, 16), nn.ReLU(), conv(16, 16), Own()) for _ in range(2)]
        return Residual(*blocks, *([conv(16, 16)] if last else []))

    model = nn.Sequential(nn.Conv2d(3, 16, 1), group(), group())
    has = {site.block: site.existing for site in find_sites(model, input_size=(3, 8, 8))}
    own = {f"{g}.branch.{b}": f"{g}.branch.{b}.branch.3" for g in (1, 2) for b in (0, 1)}
    assert has == {**own, "1": "", "2": ""}
    replaced = inject(model, "se", reduction=4, input_size=(3, 8, 8), existing="replace").injection.plan
    gone = ["1.se", "2.se", *(f"{path.rpartition('.')[0]}.se" for path in own.values())]
    assert sorted(made.module for made in replaced.insertions) == sorted(gone)
    skipped = inject(model, "se", reduction=4, input_size=(3, 8, 8), existing="skip").injection.plan
    assert [made.module for made in skipped.insertions] == ["1.se", "2.se"]


def test_attention_that_is_reshaped_by_its_own_size_is_replaced_in_silence() -> None:
    """Its size reads it, too: what is taken out with it goes once."""

    def run(m: Lambda, x: Tensor) -> Tensor:
        y = m.b(torch.relu(m.a(x)))
        g = torch.sigmoid(m.fc(y.mean((2, 3))))
        return x + y * g.view(g.size(0), -1, 1, 1)

    model = Toy(Lambda(run, a=conv(16, 16), b=conv(16, 16), fc=nn.Linear(16, 16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        patched = inject(model, "se", reduction=4, input_size=(3, 8, 8), existing="replace")
    assert len(patched.injection.plan.insertions) == 1
    patched(torch.randn(2, 3, 8, 8))
