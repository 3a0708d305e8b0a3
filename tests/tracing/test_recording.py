"""What has no graph is recorded: sites and attach for code that decides on data, whatever runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from attn_inject import PlanError, TraceError, attach, detach, find_sites, inject

from ..toys import conv


class Body(nn.Module):
    """One block with a skip add, and code around it."""

    def __init__(self, around: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.body = nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16))
        self.around = around

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.around(x + self.body(x))


def _brightest(x: torch.Tensor) -> torch.Tensor:
    return x[x.flatten(1).sum(1) > -1e9]


def _batched(x: torch.Tensor) -> torch.Tensor:
    batch = x.new_zeros((len(x), *x.shape[1:]))
    for index, image in enumerate(x):
        batch[index, :, : image.shape[1]].copy_(image)
    return batch if batch.max() > -1e9 else x


@pytest.mark.parametrize(
    "around",
    [
        lambda x: x * 2 if x.mean() > -1e9 else x,
        lambda x: x * float(x.max()) + int(x.numel() * 0.5),
        lambda x: torch.from_numpy(np.tanh(x.detach().numpy())) + x,
        lambda x: x + len(x.nonzero()),
        lambda x: x * x.max().item(),
        lambda x: x if 0.123456 in x else x * 2,
        lambda x: x[..., : np.int64(np.argmax([0, 1]) * 16)] if x.max() > -1e9 else x,
        _brightest,
        _batched,
        lambda x: torch.compile(lambda y: torch.tanh(y) * 2)(x) + len(x.nonzero()),
        torch.vmap(lambda image: image * image.sum()),
        lambda x: torch.func.grad(lambda y: y.sin().sum())(x) + len(x.nonzero()),
        lambda x: torch.jit.wait(torch.jit.fork(torch.tanh, x)) + len(x.nonzero()),
        lambda x: torch.Tensor(*x.shape).zero_() + x + len(x.nonzero()),
        lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize(),
    ],
)
@pytest.mark.slow
def test_whatever_runs_can_be_read_and_attached_to(around: Callable[[torch.Tensor], torch.Tensor]) -> None:
    torch.manual_seed(0)
    model = Body(around).eval()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sites = find_sites(model, input_size=16)
    assert [(site.block, site.kind, site.channels, site.size) for site in sites] == [("", "residual", 16, (16, 16))]
    assert "Body cannot be traced: stopped at " in sites.recorded
    image = torch.randn(2, 3, 16, 16)
    same = attach(model, "se", reduction=4, init="identity", input_size=16).eval()
    assert torch.equal(same(image), model(image))
    gated = attach(model, "eca", input_size=16).eval()
    assert not torch.equal(gated(image), model(image))
    assert torch.equal(detach(gated).eval()(image), model(image))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(TraceError, match=r"; attach\(\) needs no graph: it follows one run of the model"):
        inject(model, "se", reduction=4, input_size=16)


def test_a_model_of_shapes_alone_is_recorded_with_weights_of_its_own() -> None:
    with torch.device("meta"):
        model = Body(lambda x: x if x.max() > 0 else x * 2)
    assert len(find_sites(model, input_size=16)) == 1
    assert all(parameter.is_meta for parameter in model.parameters())


def test_what_does_not_run_either_says_why_it_has_no_graph() -> None:
    def around(x: torch.Tensor) -> torch.Tensor:
        if x.max() > -1e9:
            raise ValueError("never")
        return x

    with pytest.raises(TraceError, match=r"stopped at .*`if x.max\(\) > -1e9:`"):
        find_sites(Body(around), input_size=16)


@pytest.mark.slow
def test_a_detector_whole() -> None:
    torch.manual_seed(0)
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    ).eval()
    sites = find_sites(model, example_inputs=torch.zeros(1, 3, 64, 64))
    # MobileNetV3-Large has ten blocks with a skip add.
    assert len(sites) == 10
    assert all(site.block.startswith("backbone.features.") for site in sites)
    attached = attach(model, "se", reduction=4, init="identity", example_inputs=torch.zeros(1, 3, 64, 64)).eval()
    images = [torch.rand(3, 64, 80)]
    for before, after in zip(model(images), attached(images), strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_attach_cannot_reach_is_said_of_recordings_too() -> None:
    class Inline(Body):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return x + torch.tanh(self.body(x)) if x.max() > -1e9 else x

    with pytest.raises(PlanError, match="attach cannot reach it"):
        attach(Inline(torch.relu).eval(), "eca", input_size=16)
