"""Models of transformers that were saved and read back: attention goes in, and their own weights go into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attn_inject import attach, attention_parameters, detach
from attn_inject.surgery.attachment import attached_modules

pytestmark = pytest.mark.wild

transformers = pytest.importorskip("transformers")
CONFIG = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "num_labels": 3}


def test_what_from_pretrained_gives_takes_attention_and_gives_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    kind = transformers.ResNetForImageClassification
    kind(transformers.ResNetConfig(**CONFIG)).save_pretrained(tmp_path)
    model: Any = kind.from_pretrained(tmp_path).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model(image).logits
        attached: Any = attach(model, "se", reduction=4, init="identity", input_size=64, copy=True).eval()
        assert type(attached) is type(model)
        assert torch.equal(attached(pixel_values=image).logits, before)

        # Weights of a plain file go into a model that was attached to before them.
        other: Any = attach(
            kind(transformers.ResNetConfig(**CONFIG)), "se", reduction=4, init="identity", input_size=64
        )
        missing, unknown = other.load_state_dict(kind.from_pretrained(tmp_path).state_dict(), strict=False)
        new = {id(parameter) for parameter in attention_parameters(other)}
        assert unknown == []
        assert set(missing) == {name for name, parameter in other.named_parameters() if id(parameter) in new} != set()
        ran: list[str] = []
        for path in attached_modules(other):
            other.get_submodule(path).register_forward_hook(lambda *_, path=path: ran.append(path))
        assert torch.equal(other.eval()(image).logits, before)
        assert sorted(ran) == sorted(attached_modules(other)) != []

        # And back: what its own class saves of it, without the attention, it reads.
        detach(other).save_pretrained(tmp_path / "again")
        assert torch.equal(kind.from_pretrained(tmp_path / "again").eval()(image).logits, before)
