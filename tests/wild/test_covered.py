"""Every model of transformers with a convolutional network's signs in its code is tried, or has a reason not to be."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .models import RECORDED, RECORDED_WITHOUT, WILD, WITHOUT

pytestmark = pytest.mark.wild

# What a network of convolutions has in its file, in transformers' way of writing: a norm of maps, or a backbone of
# another file. Patches that one convolution cuts out have neither.
SIGNS = re.compile(r"nn\.(BatchNorm2d|GroupNorm)\(|load_backbone\(|TimmBackbone")

LEFT: dict[str, str] = {
    name: reason
    for names, reason in (
        (
            "clap clvp encodec hubert moonshine neucodec sew sew_d speecht5 unispeech unispeech_sat wav2vec2"
            " wav2vec2_conformer wavlm wavtokenizer xcodec2",
            "it hears or speaks: no images",
        ),
        ("auto", "it has no code of a model's: it makes the others"),
        # Known, and no success: what comes after integers of the data counts as none of the data.
        (
            "apertus1p5 chameleon emu3 janus",
            "its convolutions are a vector quantizer's, whose decoder's residual blocks are not found",
        ),
        (
            "grounding_dino mm_grounding_dino omdet_turbo oneformer tvp",
            "it is handed text beside the image, for a transformer that stands on a backbone tried here",
        ),
        ("pp_doclayout_v2 pp_doclayout_v3 pp_doclayout_v4", "RT-DETR's encoder and decoder on HGNetV2: both are tried"),
        (
            "pp_ocrv5_mobile_rec pp_ocrv5_server_rec pp_ocrv6_tiny_rec slanet",
            "it reads: a backbone that is tried, and sequences after it",
        ),
        ("pp_ocrv6_small_rec", "its backbone wants strides that only its checkpoints have; its encoder does add maps"),
        # Known, and no success: attach takes the block that is called twice and leaves the other.
        ("efficientloftr", "its matching transformer has two blocks with a skip add, of which attach takes one"),
        ("pp_ocrv6_medium_det", "the blocks of pp_ocrv5_server_det, which is tried"),
        ("pp_ocrv6_small_det", "the neck of pp_ocrv5_mobile_det, which is tried"),
        ("chmv2 depth_pro prompt_depth_anything tipsv2_dpt", "a transformer with the neck of DPT, which is tried"),
        (
            "data2vec glpn lw_detr perceiver sam3",
            "a transformer of tokens, whose convolutions before or after it have no shortcuts",
        ),
        ("sam3_lite_text", "sam3, with convolutions along a text"),
    )
    for name in names.split()
}


def _written() -> Iterator[str]:
    """The models whose code has one of the signs."""
    found = importlib.util.find_spec("transformers")
    assert found is not None
    for folder in found.submodule_search_locations or ():
        for file in sorted(Path(folder, "models").glob("*/modeling_*.py")):
            if SIGNS.search(file.read_text(encoding="utf-8")):
                yield file.parent.name


def _tried() -> set[str]:
    """The models that a network of `models.py` has a module of."""
    networks = [wild for wild in (*WILD, *RECORDED, *WITHOUT, *RECORDED_WITHOUT) if wild.package == "transformers"]
    homes = {type(module).__module__ for wild in networks for module in wild.made().modules()}
    return {home.split(".")[2] for home in homes if home.startswith("transformers.models.")}


def test_every_model_is_tried_or_has_a_reason() -> None:
    pytest.importorskip("transformers")
    tried, written = _tried(), set(_written())
    assert sorted(written - tried - set(LEFT)) == []
    # A reason goes with what it is a reason for.
    assert sorted(set(LEFT) & tried) == []
    assert sorted(set(LEFT) - written) == []
