"""Reasons end in codes, and every code that a rule's file cites has its line."""

from __future__ import annotations

import re
from pathlib import Path

import attn_inject.sites.reasons as module
from attn_inject.sites.reasons import RULES, code_of

_HOME = Path(module.__file__).parent


def test_every_code_in_the_rules_files_is_explained() -> None:
    cited = {
        code for path in _HOME.glob("*.py") for code in re.findall(r": ([RM]\d+)\b", path.read_text(encoding="utf-8"))
    }
    assert len(cited) > 12
    assert cited <= set(RULES)
    numbered = {
        code
        for path in _HOME.glob("*.py")
        for code in re.findall(r"^ ?([RM]\d+)\. ", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert numbered == set(RULES)


def test_the_reasons_that_are_shared_end_in_codes() -> None:
    shared = {name: value for name, value in vars(module).items() if name.isupper() and isinstance(value, str)}
    assert len(shared) > 10
    assert all(code_of(value) for value in shared.values())
    assert code_of("its value reaches no output of the network") == ""
    assert all(len(f"M11  {rule}") < 120 for rule in RULES.values())
