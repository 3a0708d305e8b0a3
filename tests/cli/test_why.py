"""`attn-inject sites --why`: reasons folded, rules explained, plain blocks mentioned; whole texts at two widths."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from attn_inject.cli.why import plain_blocks, reasons
from attn_inject.types import Site, Skipped


def _after(text: str, first: str) -> list[str]:
    lines = [line.rstrip() for line in text.splitlines()]
    return lines[next(index for index, line in enumerate(lines) if line.startswith(first)) :]


@pytest.mark.slow
def test_reasons_are_folded_and_rules_explained(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ran = cli("sites", "hrnet_w18", "--why")
    assert ran.code == 0
    assert _after(ran.out, "65 not") == [
        "65 not taken",
        "65 adds    both operands are nonlinear in their fork (a fusion): R4",
        "           stage2.0 (2), stage3.0 … 3 (6 each), stage4.0 … 2 (12 each), (model)",
        "           (3)",
        "the rules that say so",
        "R4    beside the shortcut, the other operand (the branch) holds a convolution",
        "      and something nonlinear",
    ]


@pytest.mark.parametrize("columns", [80, 120])
def test_nothing_is_wider_than_the_terminal(cli: Callable, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    ran = cli("sites", "shufflenet_v2_x1_0", "--why")
    assert max(len(line) for line in ran.out.splitlines()) <= columns
    words = " ".join(ran.out.split())
    assert "3 concats the same code elsewhere joins what is no block's output" in words
    assert "13 concats the parts are different slices of one split: M5 stage2.1 … 3, stage3.1 … 7" in words
    assert "M11 concats that the same code makes at the same place get one verdict" in words


def test_plain_blocks_are_mentioned_and_nothing_is_a_word(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    ran = cli("sites", "mobilenet_v2", "--why")
    assert ran.out.startswith("torchvision:mobilenet_v2, random weights: 10 sites\n")
    assert [line.rstrip() for line in ran.out.splitlines()[-2:]] == [
        "7 plain blocks have no skip add where the network's others do; --kinds residual,mixed,plain takes them: "
        "features.1 … 2, features.4, features.7, features.11, features.14, features.17",
        "not taken: nothing",
    ]
    asked = cli("sites", "mobilenet_v2", "--why", "--kinds", "residual,plain")
    assert "17 sites" in asked.out
    assert "plain blocks" not in asked.out


def test_reasons_that_differ_in_shapes_are_one() -> None:
    skipped = [
        Skipped(f"add_{n}", f"layer{n}.unit.att", "add", f"adds a broadcast value, ({n}, 8, 8) and ({n}, 1, 1): R1")
        for n in (1, 2, 3)
    ]
    lines = [part for part in reasons(skipped) if isinstance(part, str)]
    assert lines == ["3 not taken", "the rules that say so"]
    assert list(reasons([])) == ["not taken: nothing"]


def test_many_places_are_cut() -> None:
    sites = [Site("plain", f"b{n * n}", 0, 8, (4, 4), "channels_first", 2, "n", "n") for n in range(2, 14)]
    assert plain_blocks(sites[:1], ["residual"]) == (
        "1 plain block has no skip add where the network's others do; --kinds residual,plain takes it: b4"
    )
    assert plain_blocks(sites, ["residual"]).endswith("b4, b9, b16, b25, b36, b49, b64, b81 and 4 more")
