"""The choices: one list of names and defaults for every way to give them, and which sites they mean."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any

import numpy
import pytest

from attn_inject import PlanError, attach, find_sites, inject, make_plan
from attn_inject.cli.inject import command
from attn_inject.planning import recipe
from attn_inject.planning.choices import Choices, explaining_choices, listing, no_sites, selected
from attn_inject.types import DEFAULT_KINDS, Kind, Site, Sites, Skipped
from attn_inject.zoo.cifar import models

VERBS: tuple[Callable[..., Any], ...] = (inject, make_plan, attach)

# (name, default) of every choice; `attention` has none, and `options` are whatever keywords are left.
DEFAULTS: dict[str, Any] = {
    "attention": inspect.Parameter.empty,
    "input_size": None,
    "kinds": ("residual", "mixed"),
    "placement": "standard",
    "include": None,
    "exclude": None,
    "stages": None,
    "scope": None,
    "init": "paper",
    "existing": "stack",
    "preset": None,
    "name": None,
    "every": 1,
    "min_channels": 0,
    "stage_options": None,
    "source": None,
}


def test_the_choices_and_their_defaults() -> None:
    assert [item.name for item in fields(Choices)] == [*DEFAULTS, "options"]
    made = Choices(attention="se")
    assert {name: getattr(made, name) for name in DEFAULTS} == {**DEFAULTS, "attention": "se"}
    assert made.options == {}
    assert made == Choices(attention="se", options={})
    assert made != Choices(attention="eca")


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_takes_exactly_the_choices(verb: Callable[..., Any]) -> None:
    parameters = dict(inspect.signature(verb).parameters)
    model, inputs, options = parameters.pop("model"), parameters.pop("example_inputs"), parameters.pop("options")
    if (copy := parameters.pop("copy", None)) is not None:
        assert (copy.kind, copy.default) == (inspect.Parameter.KEYWORD_ONLY, False)
    assert (copy is None) == (verb is make_plan)
    assert model.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert (inputs.kind, inputs.default) == (inspect.Parameter.KEYWORD_ONLY, None)
    assert options.kind is inspect.Parameter.VAR_KEYWORD
    assert {name: parameter.default for name, parameter in parameters.items()} == DEFAULTS
    assert list(parameters) == list(DEFAULTS)
    kinds = {name: parameter.kind for name, parameter in parameters.items()}
    assert kinds.pop("attention") is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert set(kinds.values()) == {inspect.Parameter.KEYWORD_ONLY}


def test_a_recipe_has_a_key_for_every_choice() -> None:
    """But for the new modules' name and the model's source: in a recipe `name` and `model` are those of the recipe."""
    about_the_recipe = {"name", "title", "paper", "model", "model_args", "note", "expect_sites", "expect_parameters"}
    assert set(recipe.KEYS) - about_the_recipe == {item.name for item in fields(Choices)} - {"name", "source"}
    assert set(recipe._REQUIRED) == about_the_recipe - {"model_args", "note"} | {"attention"}


def test_the_command_line_has_an_option_for_every_choice() -> None:
    """But for the source, which is what MODEL names."""
    given_as = {"options": ("option", "reduction", "k"), "stage_options": ("stage_option",)}
    there = inspect.signature(command).parameters
    wanted = [item.name for item in fields(Choices) if item.name != "source"]
    assert [name for choice in wanted for name in given_as.get(choice, (choice,)) if name not in there] == []
    assert "source" not in there
    # None is "not given", so that a recipe's own choice, or the default above, holds.
    assert {there[name].default for choice in wanted for name in given_as.get(choice, (choice,))} == {None}


def test_choices_are_given_by_name_and_never_changed() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        Choices("se")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'reduction'"):
        Choices(attention="se", reduction=4)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'attention'"):
        Choices()  # type: ignore[call-arg]
    with pytest.raises(FrozenInstanceError):
        Choices(attention="se").every = 2  # type: ignore[misc]


def test_the_choices_of_a_call_are_all_of_its_arguments() -> None:
    arguments = {name: object() for name in (*DEFAULTS, "options", "model", "example_inputs")}
    taken = Choices.of_call(arguments)
    assert all(getattr(taken, name) is arguments[name] for name in (*DEFAULTS, "options"))
    del arguments["every"]
    with pytest.raises(KeyError, match="every"):
        Choices.of_call(arguments)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_explains_every_choice(verb: Callable[..., Any]) -> None:
    meanings = inspect.cleandoc(Choices.__doc__ or "").partition("Attributes:\n")[2]
    explained = verb.__doc__ or ""
    assert meanings in explained
    assert "(choices)" not in explained
    # One entry may tell of two: "include, exclude: ...", "every: ... min_channels: ...".
    words = meanings.replace("include, exclude:", "include: exclude:")
    assert [item.name for item in fields(Choices) if f" {item.name}: " not in words] == []


def test_the_meanings_stand_where_a_docstring_asks_for_them() -> None:
    def verb() -> None:
        """Do.

        Args:
            mine: first.
            (choices)

        Raises:
            Nothing.

        """

    def without_margin() -> None: ...

    without_margin.__doc__ = inspect.cleandoc(verb.__doc__ or "")  # as Python 3.13 has it

    def silent() -> None: ...

    assert explaining_choices(verb) is verb
    before, _, after = (verb.__doc__ or "").partition("    attention: a name (`attn-inject attentions`")
    assert before == "Do.\n\nArgs:\n    mine: first.\n"
    assert after.endswith("\n    options: passed to the attention (`reduction=16`).\n\nRaises:\n    Nothing.")
    assert explaining_choices(without_margin).__doc__ == verb.__doc__
    assert explaining_choices(silent).__doc__ == ""


def test_without_docstrings_there_is_nothing_to_explain() -> None:
    code = "from attn_inject.planning.choices import explaining_choices as e; print(repr(e(lambda: None).__doc__))"
    run = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "''\n"


@pytest.mark.parametrize(
    ("kinds", "existing", "wanted"),
    [
        (DEFAULT_KINDS, "stack", ("residual", "mixed")),
        (DEFAULT_KINDS, "skip", ("residual", "mixed")),
        (DEFAULT_KINDS, "replace", ("residual", "mixed", "attention")),
        (("attention", "residual"), "replace", ("residual", "attention")),
        (("attention",), "stack", ("attention",)),
        ("stage", "stack", ("stage",)),
        (("plain", "mixed"), "replace", ("mixed", "plain", "attention")),
    ],
)
def test_which_kinds_of_sites_are_looked_for(kinds: Any, existing: Any, wanted: tuple[Kind, ...]) -> None:
    assert Choices(attention="se", kinds=kinds, existing=existing).wanted_kinds == wanted


PLACEMENT = "placement must be one of standard, pre, post, identity, conv3x3, replace; got "


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"placement": "pro"}, f"{PLACEMENT}'pro' (did you mean pre?)"),
        ({"placement": None}, f"{PLACEMENT}None"),
        ({"init": "zero"}, "init must be one of paper, identity; got 'zero'"),
        ({"init": None}, "init must be one of paper, identity; got None"),
        ({"existing": "stak"}, "existing must be one of stack, skip, replace; got 'stak' (did you mean stack?)"),
        ({"preset": "tim"}, "preset must be one of paper, timm, ecanet; got 'tim' (did you mean timm?)"),
        ({"every": 0}, "every must be a whole number from 1, got 0"),
        ({"every": -1}, "every must be a whole number from 1, got -1"),
        ({"every": 1.0}, "every must be a whole number from 1, got 1.0"),
        ({"every": "2"}, "every must be a whole number from 1, got '2'"),
        ({"attention": "none"}, "attention 'none' takes attention out, so it needs existing='replace'"),
        (
            {"attention": "none", "existing": "skip"},
            "attention 'none' takes attention out, so it needs existing='replace'",
        ),
        ({"name": "a.b"}, "name must be an attribute name such as 'se', got 'a.b'"),
        ({"name": ""}, "name must be an attribute name such as 'se', got ''"),
        ({"name": "class"}, "name must be an attribute name such as 'se', got 'class'"),
        ({"name": 3}, "name must be an attribute name such as 'se', got 3"),
    ],
)
def test_choices_that_no_model_could_make_sense_of(asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlanError) as caught:
        Choices(**{"attention": "se", **asked}).validate()
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"every": 1},
        {"every": 2},
        {"name": "gate"},
        {"name": None},
        {"preset": None},
        *({"preset": word} for word in ("paper", "timm", "ecanet")),
        *({"init": word} for word in ("paper", "identity")),
        *({"existing": word} for word in ("stack", "skip", "replace")),
        *({"placement": word} for word in ("standard", "pre", "post", "identity", "conv3x3", "replace")),
        {"attention": "none", "existing": "replace"},
        {"attention": "eca", "existing": "replace"},
    ],
)
def test_choices_that_make_sense(asked: dict[str, Any]) -> None:
    Choices(**{"attention": "se", **asked}).validate()


def _site(block: str, stage: int = 2, channels: int = 64, kind: Kind = "residual") -> Site:
    return Site(kind, block, 0, channels, (8, 8), "channels_first", stage, "node", "join")


SITES = Sites(
    (
        _site("layer1.0", 2, 64),
        _site("layer1.1", 2, 64),
        _site("layer2.0", 3, 128),
        _site("layer2.1", 3, 128),
        _site("layer3.0", 4, 256),
        _site("Layer4.0", 5, 512),
    )
)


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({}, "012345"),
        ({"include": "layer1.*"}, "01"),
        ({"include": "*.0"}, "0245"),
        ({"include": ["layer1.*", "layer3.0"]}, "014"),
        ({"exclude": "layer1.*"}, "2345"),
        ({"exclude": ("layer1.*", "layer3.0")}, "235"),
        ({"include": "*.0", "exclude": "layer2.*"}, "045"),
        ({"include": "layer[12].*", "exclude": "*.1"}, "02"),
        ({"include": "Layer4.?"}, "5"),
        ({"stages": 3}, "23"),
        ({"stages": [2, 5]}, "015"),
        ({"stages": (4,), "include": "*.0"}, "4"),
        ({"stages": 3, "include": "*.0"}, "2"),
        ({"stages": []}, ""),
        ({"min_channels": 128}, "2345"),
        ({"min_channels": 129}, "45"),
        ({"min_channels": 513}, ""),
        ({"every": 2}, "024"),
        ({"every": 4}, "04"),
        ({"every": 2, "exclude": "layer1.0"}, "135"),
        ({"every": 2, "min_channels": 128}, "24"),
        ({"include": "layer1.*", "stages": 3}, ""),
        ({"include": [], "exclude": []}, "012345"),
    ],
)
def test_which_sites_the_filters_leave(asked: dict[str, Any], left: str) -> None:
    assert selected(SITES, Choices(attention="se", **asked)) == [SITES[int(number)] for number in left]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"include": "layr1.0"}, "pattern 'layr1.0' matches no block; did you mean layer1.0, layer3.0?"),
        ({"exclude": "layer3.9"}, "pattern 'layer3.9' matches no block; did you mean layer3.0, layer2.1?"),
        (
            {"include": "body"},
            "pattern 'body' matches no block; blocks are layer1.0, layer1.1, layer2.0, layer2.1, layer3.0, Layer4.0",
        ),
        ({"include": ["*.0", "xyz*"]}, None),
        ({"include": "*", "exclude": "xyz*"}, None),
        # Not on any system are the patterns blind to case.
        ({"include": "LAYER1.*"}, None),
        ({"stages": 1}, "no sites in stage 1: the stages with sites are 2, 3, 4, 5"),
        ({"stages": [9, 2, 1]}, "no sites in stage 1, 9: the stages with sites are 2, 3, 4, 5"),
    ],
)
def test_filters_that_name_what_is_not_there(asked: dict[str, Any], sentence: str | None) -> None:
    with pytest.raises(PlanError) as caught:
        selected(SITES, Choices(attention="se", **asked))
    if sentence is None:
        assert "matches no block" in str(caught.value)
    else:
        assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("blocks", "limit", "text"),
    [
        ([], 6, ""),
        (["a"], 6, "a"),
        ([""], 6, "(model)"),
        (["b", "a", "b"], 6, "b, a"),
        (list("abcdef"), 6, "a, b, c, d, e, f"),
        (list("abcdefg"), 6, "a, b, c, d, e, f, ... (7 in all)"),
        (list("aabc"), 3, "a, b, c"),
        (list("aabcd"), 3, "a, b, c, ... (4 in all)"),
    ],
)
def test_a_listing_names_the_first_few(blocks: list[str], limit: int, text: str) -> None:
    assert listing(iter(blocks), limit) == text
    if limit == 6:
        assert listing(blocks) == text


SKIPPED = (
    Skipped("a", "x", "cat", "feature reuse"),
    Skipped("b", "y", "add", "a fusion"),
    Skipped("c", "z", "add", "a fusion"),
)


@pytest.mark.parametrize(
    ("skipped", "kinds", "sentence"),
    [
        (
            (),
            DEFAULT_KINDS,
            "no sites: there are neither adds nor concats of feature maps (try kinds='stage')",
        ),
        (
            SKIPPED,
            ("mixed",),
            "no sites: 2 x add a fusion; 1 x cat feature reuse (try kinds='stage')",
        ),
        (
            SKIPPED,
            ("plain", "attention"),
            "no sites of kind plain or attention: the kinds are residual, mixed, plain, stage, attention",
        ),
        (
            SKIPPED[:1],
            ("residual", "attention"),
            "no sites: 1 x cat feature reuse (try kinds='stage')",
        ),
    ],
)
def test_why_there_are_no_sites(skipped: tuple[Skipped, ...], kinds: tuple[Kind, ...], sentence: str) -> None:
    assert no_sites(Sites((), skipped), kinds) == sentence


@pytest.mark.parametrize(
    "choices",
    [{"stages": numpy.int64(0)}, {"stages": numpy.array([0])}, {"stages": range(1)}, {"include": {"layer1.*"}}],
    ids=str,
)
def test_numpys_numbers_and_other_collections_will_do(choices: dict[str, Any]) -> None:
    sites = find_sites(models()["resnet20"]())
    asked = Choices(attention="se", **choices)
    asked.validate()
    assert [site.block for site in selected(sites, asked)] == ["layer1.0", "layer1.1", "layer1.2"]


def test_a_generator_of_patterns_is_refused() -> None:
    """It would be gone before the first site is looked at."""
    with pytest.raises(PlanError, match="include must be a pattern on block paths, or several; got <generator"):
        Choices(attention="se", include=(name for name in ["layer1.*"])).validate()
