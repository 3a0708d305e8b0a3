"""A patched part in its place: what the model around it asks of it, and what is said where a graph has no answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import PlanError, attach, inject

from ..toys import conv


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.body = nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16))
        self.width = 16

    @property
    def stride(self) -> int:
        return 1

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        x = self.stem(x)
        return (x + self.body(x)) * scale


class Whole(nn.Module):
    """Calls its part as `call` says."""

    def __init__(self, call: Any) -> None:
        super().__init__()
        self.part = Part()
        self.call = call

    def forward(self, x: torch.Tensor) -> Any:
        return self.call(self.part, x)


def test_a_whole_that_asks_for_no_more_than_a_graph_has() -> None:
    model = Whole(lambda part, x: part(x) / part.width).eval()
    patched: nn.Module = inject(model, "se", reduction=4, init="identity", scope="part")
    assert isinstance(patched, Whole)
    image = torch.randn(2, 3, 16, 16)
    assert torch.equal(patched(image), model(image))


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda part, x: part(x, scale=2.0), "unexpected keyword argument 'scale'"),
        (lambda part, x: part(x) * part.stride, "stride"),
        (lambda part, x: nn.functional.relu(part.body(part.stem(x)) * part.stride), "stride"),
    ],
)
def test_a_whole_that_asks_for_more_is_refused_and_attach_does_it(call: Any, reason: str) -> None:
    model = Whole(call).eval()
    with pytest.raises(PlanError, match=rf"the model around part does not run .*{reason}.*use attach\(\)"):
        inject(model, "se", reduction=4, scope="part")
    attached = attach(model, "se", reduction=4, init="identity", scope="part").eval()
    image = torch.randn(2, 3, 16, 16)
    assert torch.equal(attached(image), model(image))


def test_a_whole_that_runs_on_no_image_is_not_tried() -> None:
    model = Whole(lambda part, x: part(x["image"], scale=2.0))
    patched = inject(model, "se", reduction=4, scope="part")
    assert "a trial of the model around part: it runs on no image of a usual size" in patched.injection.not_kept
    with pytest.raises(TypeError, match="scale"):
        patched({"image": torch.randn(2, 3, 16, 16)})
