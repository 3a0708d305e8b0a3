"""Whatever options are put together, the exit code is 0 or 2, with one line on stderr and no traceback for 2."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

WORDS = st.sampled_from(
    ["", "0", "-1", "2", "3", "1e9", "nan", "None", "se", "*", "blocks.*", "a=b", "k=3", "٣", "\0", "[", "x" * 300]
)
VALUES = {
    "--attention": st.sampled_from(
        ["se", "eca", "psa", "se-gc", "none", "timm:cbam", "timm:", "os:getcwd", "a:b", "se "]
    ),
    "--option": st.sampled_from(["k=3", "k=4", "reduction=0", "reduction=64", "groups=3", "bias=True", "ndim=1", "k"]),
    "--reduction": st.sampled_from(["1", "4", "0", "64", "x"]),
    "--k": st.sampled_from(["1", "3", "4", "-3", "99"]),
    "--stage-option": st.sampled_from(["1:k=3", "9:k=3", "x:k=3", "1:reduction=4"]),
    "--init": st.sampled_from(["paper", "identity", "zero"]),
    "--preset": st.sampled_from(["paper", "timm", "ecanet", "x"]),
    "--name": st.sampled_from(["gate", "1a", "conv1", "forward", "a.b"]),
    "--placement": st.sampled_from(["standard", "pre", "post", "identity", "conv3x3", "replace", "x"]),
    "--kinds": st.sampled_from(["residual", "stage", "mixed,stage", "", "x"]),
    "--stages": st.sampled_from(["1", "1,2", "7", "x"]),
    "--include": st.sampled_from(["blocks.0", "*", "[", "x"]),
    "--exclude": st.sampled_from(["blocks.0", "*", "[", "x"]),
    "--every": st.sampled_from(["1", "2", "0", "-1", "x"]),
    "--min-channels": st.sampled_from(["1", "1000", "-1", "x"]),
    "--existing": st.sampled_from(["stack", "skip", "replace", "x"]),
    "--scope": st.sampled_from(["blocks", "blocks.0", "stem", "x", ""]),
    "--expect-sites": st.sampled_from(["0", "1", "2", "x"]),
    "--model-arg": st.sampled_from(["width=8", "width=0", "width='a'", "no=1", "x"]),
    "--seed": st.sampled_from(["0", "1", "-1", str(2**64), "x"]),
    "--units": st.sampled_from(["decimal", "binary", "x"]),
    "--convention": st.sampled_from(["all", "paper", "x"]),
    "--input-size": st.sampled_from(["16", "8x16", "3x16x16", "1", "4x16x16", "0", "x", "2x2x2x2x2"]),
    "--json": st.sampled_from(["r.json", "absent/r.json", "."]),
    "--recipe": st.sampled_from(["nope", "toy.py", "absent.toml"]),
}
FLAGS = ["--full", "--diff", "--attention-only", "--optimize", "--training", "--compile", "--pretrained"]
OPTIONS = st.sampled_from(sorted(VALUES)).flatmap(lambda name: st.tuples(st.just(name), VALUES[name] | WORDS))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model=st.sampled_from(["toy.py:Net", "toy.py:Net", "toy.py:plain", "toy.py:x", "nonet", ""]),
    options=st.lists(OPTIONS, max_size=3),
    flags=st.lists(st.sampled_from(FLAGS), max_size=1),
)
def test_exit_codes(cli: Callable, toy: str, model: str, options: list[tuple[str, str]], flags: list[str]) -> None:
    attention = [] if any(name == "--attention" for name, _ in options) else ["--attention", "se"]
    given_size = any(name == "--input-size" for name, _ in options)
    size = [] if given_size else ["--input-size", "16"]
    arguments = [
        model,
        *attention,
        *(word for pair in options for word in pair),
        *flags,
        *size,
        "--no-bench",
        "--force",
    ]
    ran = cli(*arguments)
    assert ran.code in (0, 2), ran
    # Torch warns of layers of width 0 before anyone can refuse them.
    said = [line for line in ran.err.splitlines() if not line.startswith("attn-inject: warning: ")]
    if ran.code == 2:
        assert len(said) == 1
    assert "Traceback" not in ran.err
