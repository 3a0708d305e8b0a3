"""Names under which networks with attention are put into a zoo's registry."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from attn_inject import register_timm_model, register_torchvision_model
from attn_inject.errors import SourceError


@pytest.mark.parametrize(
    ("register", "zoo", "plain"),
    [(register_timm_model, "timm", "test_resnet"), (register_torchvision_model, "torchvision", "resnet18")],
)
@pytest.mark.parametrize(
    ("model", "name", "sentence"),
    [
        ("resnet5O", None, "^no model 'resnet5O' in {}: the nearest names are resnet50"),
        ("", "resnet50", "^{} has a model 'resnet50' of its own: give another name$"),
        ("", "resnet50.eca", "^{}'s names are letters, digits and underscores"),
    ],
)
def test_what_cannot_be_a_name(
    register: Callable[..., str], zoo: str, plain: str, model: str, name: str | None, sentence: str
) -> None:
    with pytest.raises(SourceError, match=sentence.format(zoo)):
        register(model or plain, "eca", name=name)


def test_torchvision_asks_for_names_in_lower_case() -> None:
    with pytest.raises(SourceError, match="^torchvision has a model 'resnet50' of its own: give another name$"):
        register_torchvision_model("resnet18", "eca", name="ResNet50")
