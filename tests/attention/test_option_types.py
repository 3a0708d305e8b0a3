"""Values of options that are of another kind than the attention takes."""

from __future__ import annotations

import inspect

import pytest
import torch

from attn_inject import AttentionError
from attn_inject.attention.registry import build, library_names, resolve

REFUSED = {
    "se:bias=no": "bias of se must be true or false, got 'no'",
    "cbam:norm=2": "norm of cbam must be true or false, got 2",
    "triplet:spatial=off": "spatial of triplet must be true or false, got 'off'",
    "eca:gamma=nan": "gamma of eca must be a finite number, got 'nan'",
    "eca:b=1e400": "gamma 2 and b inf ask for a kernel of inf over 64 channels",
    "eca:b=None": "b of eca must be a finite number, got None",
    "eca:gamma=1e-320": "gamma 1e-320 and b 1 ask for a kernel of inf over 64 channels",
    "mlca:gamma=1e-9": "gamma 1e-09 and b 1 ask for a kernel of 7e+09 over 64 channels",
    "se:gain=" + "9" * 400: "gain of se must be a finite number or None, got 9999",
    "eca:k=" + "9" * 25: "k of eca must be a whole number or None, got 9999",
    "psa:kernels=3,groups=1": "kernels of psa must be a list of whole numbers, got 3",
    "psa:groups=None": "groups of psa must be a list of whole numbers, got None",
    "fca:frequencies=(0,1)": "frequencies of fca must be a word or a list of lists of whole numbers, got (0, 1)",
    "fca:frequencies=[(0,9)]": "frequencies go from 0 to 6; got [(0, 9)]",
    "fca:size=1.5": "size of fca must be a whole number or a list of whole numbers or None, got 1.5",
    "gct:eps=-1": "eps must be a number above 0, got -1",
    "srm:eps=0": "eps must be a number above 0, got 0",
    "sge:eps=a": "eps must be a number above 0, got 'a'",
    "ge:size=7": "size is for the variants with parameters, theta and theta-plus: choose one, or leave it out",
    "se:init=identity": "se takes init by itself, as in init='identity', and as no option",
    "se:reduction": "options of se are key=value, as in se:reduction=VALUE",
    "se:reduction==4": "options of se are key=value, as in se:reduction=4",
    "se:=4": "options of se are key=value, as in se:reduction=4",
    "SE:reduction=4": "unknown attention 'SE' (did you mean se?)",
    ":": "unknown attention ':'",
}


@pytest.mark.parametrize("spec", REFUSED)
def test_one_sentence_says_what_is_wrong(spec: str) -> None:
    with pytest.raises(AttentionError) as caught:
        build(spec, 64)
    assert REFUSED[spec] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", library_names())
def test_defaults_fit(name: str) -> None:
    attention = resolve(name)
    options = {
        option: parameter.default
        for option, parameter in inspect.signature(attention.factory).parameters.items()
        if option in attention.options
    }
    attention.check_options(options)


@pytest.mark.parametrize(
    "spec", ["se:bias=true", "eca:gamma=2,b=0.5", "psa:kernels=[3],groups=(1,)", "fca:frequencies=[(0,0),(6,6)]"]
)
def test_what_fits_is_made(spec: str) -> None:
    x = torch.randn(2, 64, 7, 7)
    assert build(spec, 64).eval()(x).shape == x.shape


def test_an_empty_batch_of_grouped_maps() -> None:
    x = torch.zeros(0, 16, 4, 4)
    assert build("gam", 16, options={"groups": 4, "kernel": 3})(x).shape == x.shape
