"""An attention with its options in one word, wherever an attention is named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attn_inject import AttentionError, PlanError, apply_plan, attach, inject, make_plan
from attn_inject.attention.registry import build, resolve
from attn_inject.attention.specs import split_spec
from attn_inject.planning.recipe import parse_recipe
from attn_inject.planning.text import plan_from_json, plan_to_dict, plan_to_json
from attn_inject.reporting.comparing import compare
from attn_inject.reporting.settings import ReportSettings

from .. import toys

SIZE = (3, 16, 16)


def toy() -> toys.Toy:
    return toys.Toy(toys.Block(toys.SPELLINGS["+"]))


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("se", "se", {}),
        ("se:reduction=4", "se", {"reduction": 4}),
        (" se : reduction = 4 , gate = hardsigmoid", "se", {"reduction": 4, "gate": "hardsigmoid"}),
        ("psa:kernels=3,5,groups=1,4", "psa", {"kernels": (3, 5), "groups": (1, 4)}),
        ("psa:kernels=[3, 5],order=natural", "psa", {"kernels": [3, 5], "order": "natural"}),
        ("x:a=(1, b=2),c=3", "x", {"a": "(1, b=2)", "c": 3}),
        ("x:a='1, b=2',c=true,d=None", "x", {"a": "1, b=2", "c": True, "d": None}),
        ("x:a=b=c,d=e:f=1", "x", {"a": "b=c", "d": "e:f=1"}),
        ("x:a=1,b==2", "x", {"a": "1,b==2"}),
        ("timm:cbam", "timm:cbam", {}),
        ("timm:cbam:rd_ratio=0.25", "timm:cbam", {"rd_ratio": 0.25}),
        ("package.module:Class", "package.module:Class", {}),
        ("package.module:Outer.Inner:start=0.5", "package.module:Outer.Inner", {"start": 0.5}),
        ("a=b/my attn.py:Scale:start=-1e-3", "a=b/my attn.py:Scale", {"start": -1e-3}),
        ("C:/attn.py:Scale:x=1", "C:/attn.py:Scale", {"x": 1}),
    ],
)
def test_where_the_options_start_and_end(text: str, name: str, options: dict[str, Any]) -> None:
    assert split_spec(text) == (name, options)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=4,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["se", "timm:cbam", "a.b:C", "dir/f.py:C.D"]),
    st.dictionaries(st.from_regex(r"[a-z_]\w{0,6}", fullmatch=True), _values, max_size=4),
)
def test_what_python_writes_is_read_back(name: str, options: dict[str, Any]) -> None:
    spec = ",".join(f"{key}={value!r}" for key, value in options.items())
    # `repr` writes some texts with an escaped quote, which no one types.
    if "\\" not in spec:
        assert split_spec(f"{name}:{spec}" if options else name) == (name, options)


def test_the_same_module_as_with_options_apart() -> None:
    assert str(build("se:reduction=4,bias=True", 64)) == str(build("se", 64, options={"reduction": 4, "bias": True}))
    model, x = toy(), torch.randn(2, *SIZE)
    for verb in (inject, attach):
        torch.manual_seed(0)
        ours = verb(model, "se:reduction=4,gate=hardsigmoid", input_size=SIZE).eval()
        torch.manual_seed(0)
        theirs = verb(model, "se", reduction=4, gate="hardsigmoid", input_size=SIZE).eval()
        assert torch.equal(ours(x), theirs(x))
        assert ours.injection.plan == theirs.injection.plan
    timms = inject(toy(), "timm:se:rd_channels=3", input_size=SIZE)
    assert timms.body.se.fc1.weight.shape[0] == 3


def test_a_plan_keeps_the_name_and_the_options_apart_and_reads_both() -> None:
    plan = make_plan(model := toy(), "se:reduction=4", input_size=SIZE)
    assert plan.attention == "se"
    assert [(made.attention, made.options) for made in plan.insertions] == [("se", {"reduction": 4})]
    assert plan == plan_from_json(plan_to_json(plan))
    data = plan_to_dict(plan)
    for insertion in data["insertions"]:
        insertion["attention"] = "se:reduction=2"
        insertion.pop("options")
    written = plan_from_json(json.dumps(data))
    assert apply_plan(model, written).body.se.fc1.weight.shape == (8, 16)
    with pytest.raises(AttentionError, match="given reduction twice"):
        apply_plan(model, replace(written, insertions=(replace(written.insertions[0], options={"reduction": 4}),)))


def test_presets_and_stages_see_the_options_of_the_spec() -> None:
    plan = make_plan(toy(), "se:bias=False,reduction=2", preset="timm", input_size=SIZE)
    assert dict(plan.insertions[0].options) == {"bias": False, "reduction": 2, "form": "conv", "divisor": 8}
    stage = plan.insertions[0].site.stage
    plan = make_plan(toy(), "se:reduction=2", stage_options={stage: {"reduction": 4}}, input_size=SIZE)
    assert plan.insertions[0].options == {"reduction": 4}


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        (
            "se:reduction=4",
            {"reduction": 8},
            "se is given reduction twice: 4 in the attention's name, and 8 as an option",
        ),
        ("se:reduction=4,reduction=8", {}, "gives reduction twice"),
        ("se:redution=4", {}, "se has no option 'redution' (did you mean reduction?)"),
        ("se:reduction=", {}, "reduction must be a number from 1"),
        ("se:k", {}, "options of se are key=value, as in se:reduction=k"),
        ("se-var1:4", {}, "options of se-var1 are key=value, as in se-var1:gate=4"),
        ("see:reduction=4", {}, "unknown attention 'see' (did you mean se"),
        ("none:reduction=4", {}, "'none' takes attention out"),
        ("my_attn.py", {}, "my_attn.py is a file: say which class of it, as in my_attn.py:Scale"),
        ("no_such.py:Scale", {}, "cannot import attention 'no_such.py:Scale': there is no file no_such.py"),
        ("no.such.module:Thing:a=1", {}, "there is no module no.such.module to import here"),
        ("json:loads.x", {}, "there is no 'x' in json"),
        ("json:__name__", {}, "attention 'json:__name__' is a str, not a class or function"),
    ],
)
def test_what_is_wrong_with_a_spec_is_one_sentence(spec: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(AttentionError, match="^[^\n]+$") as caught:
        inject(toy(), spec, input_size=SIZE, **options)
    assert words in str(caught.value)


def test_a_recipe_may_have_a_spec() -> None:
    text = (
        'name = "x"\ntitle = "x"\npaper = "x"\nmodel = "x"\nexpect_sites = 1\nexpect_parameters = 1\n'
        'attention = "se:reduction=4"\noptions = {bias = true}\n'
    )
    choices = parse_recipe(text.encode()).choices
    assert (choices.attention, choices.options) == ("se", {"reduction": 4, "bias": True})
    for wrong, words in (("bias = true", "reduction is given in"), ("reduction=4", "gives reduction twice")):
        changed = text.replace("{bias", "{reduction") if words.startswith("reduction") else text
        changed = changed.replace("se:reduction=4", "se:reduction=4,reduction=5") if wrong == "reduction=4" else changed
        with pytest.raises(PlanError, match=words):
            parse_recipe(changed.encode())


def test_comparisons_are_labelled_with_the_spec() -> None:
    made = compare(toy(), ["se:reduction=4", "se:reduction=8", "eca:k=3"], settings=ReportSettings(bench=False))
    assert [(each.attention, each.parameters) for each in made.candidates[1:]] == [
        ("se:reduction=4", made.candidates[0].parameters + 2 * 16 * 4),
        ("se:reduction=8", made.candidates[0].parameters + 2 * 16 * 2),
        ("eca:k=3", made.candidates[0].parameters + 3),
    ]


def test_resolving_a_spec_keeps_its_options_aside() -> None:
    attention = resolve("eca:k=3")
    assert (attention.name, attention.given) == ("eca", {"k": 3})
    assert hash(attention)
    plain, options = attention.settled({"gamma": 1})
    assert (plain, options) == (resolve("eca"), {"k": 3, "gamma": 1})
