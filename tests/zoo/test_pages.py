"""The page of whole networks in a browser, at three widths, in light and in dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import attn_inject
from attn_inject.types import Source
from attn_inject.zoo.building import build

from ..reporting.browser import assert_fits, needs_browser

pytestmark = [pytest.mark.zoo, needs_browser]


@pytest.mark.parametrize(
    ("zoo", "name", "choices", "sites"),
    [
        ("torchvision", "resnet50", {}, 16),
        ("torchvision", "inception_v3", {}, 11),
        ("torchvision", "efficientnet_b0", {"existing": "replace"}, 16),
        ("timm", "hrnet_w18", {}, 112),
    ],
)
def test_the_page_fits(zoo: str, name: str, choices: dict[str, Any], sites: int, tmp_path: Path) -> None:
    model = build(Source(zoo, name))
    report = attn_inject.report(model, attn_inject.inject(model, "se", **choices), bench=False)
    assert [len(row.sites) for row in report.blocks if row.sites] == [1] * sites
    assert_fits(report.to_html(), tmp_path, sites=sites)
