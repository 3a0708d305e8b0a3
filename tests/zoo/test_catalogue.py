"""Every attention of the catalogue goes into every network of both zoos as it is, or says which site minds and why."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest

from attn_inject import AttentionError, AttnInjectError
from attn_inject.attention.catalogue import catalogue
from attn_inject.planning.choices import Choices
from attn_inject.planning.plan import plan_for
from attn_inject.sites.reading import read

from .sweep import build, is_cnn, names

pytestmark = pytest.mark.zoo

# One network of so many: they share their families, and so their widths.
_STEP = 5
_WITHOUT_CHANNELS = re.compile(r"[\w.\-]+: timm:\w+ cannot be made for \d+ channels: .+")


def _outcomes(name: str) -> list[tuple[str, str]]:
    """(attention, "" or its error) for one network; nothing for one without sites."""
    try:
        model = build(name)
        if not is_cnn(model):
            return []
        located = read(model)
    except AttnInjectError:
        return []
    if not located.sites:
        return []
    found = []
    for attention, _, _ in catalogue():
        try:
            plan = plan_for(located, Choices(attention=attention))
            found.append((attention, "" if len(plan.insertions) == len(located.sites) else "sites are missing"))
        except AttentionError as error:
            found.append((attention, str(error)))
    return found


def test_every_attention_goes_into_every_network() -> None:
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        outcomes = [each for found in pool.map(_outcomes, list(names())[::_STEP], chunksize=4) for each in found]
    assert len(outcomes) > 100 * 20
    errors = [(attention, error) for attention, error in outcomes if error]
    # Of timm's, some share their channels out in groups or heads, and so want a width that divides.
    assert [each for each in errors if not _WITHOUT_CHANNELS.fullmatch(each[1])] == []
    assert Counter(attention.partition(":")[0] for attention, _ in errors).keys() <= {"timm"}
