"""Why an add or a concat is no site, in words: the sentences that several rules share, and one line for each rule.

Every reason ends in the code of its rule. No torch in here.
"""

from __future__ import annotations

# An add that these refuse may still be a block's, where the same code has blocks: R9.
OTHER_INPUTS = "the operands come from different inputs: R2"
FUSION = "both operands are nonlinear in their fork (a fusion): R4"
SPLIT_SCALE = "adds two different slices of one split (split-scale): R5"
# A block whose activation comes after its add looks like this too: R10.
REPARAMETERISED = "both operands are affine in their fork (re-parameterised branches): R4"
DIFFERENCE = "subtracts one map from another (an error, a difference), and adds none: R1"
SAMPLE = "adds drawn numbers, scaled (a sample around the other operand): R11"
MULTI_RESOLUTION = "adds maps of several resolutions (multi-resolution fusion): R6"
CELL_COMBINATION = "a part of a concat of sums (cell combination): R7"
CONSTANT = "adds a parameter or a constant (position embedding, bias): R1"
STATE = "a turn of its loop adds to no value of the network: the loop refines a state: R9"
ONE_OF_A_LOOP = "the other adds of its loop are no block's, so this one is none: R9"
BENDS_ELSEWHERE = "its block bends no branch, and the same add is a fusion elsewhere: R9"

# One verdict for the same code: where these refuse a concat, they refuse the others that the same code makes (M11).
FEATURE_REUSE = "one part derives from another (feature reuse): M3"
SLICES = "the parts are different slices of one split: M5"
CROSS_STAGE = "a part holds a block end of its own (cross-stage concat): M6"
SAME_CODE = "the same code elsewhere joins what is no block's output (feature reuse, slices, cross-stage): M11"
# These are overruled where the same code, or the network's other blocks, hand over a concat.
HEAD = "goes only to the outputs, through no further convolution (a head): M8"
PAIR = "a convolution beside a pool, or single strided convolutions (a stem or a reduction): M9"

# Reversible networks' own backward passes, for example.
RUNS_MODULES = "it runs modules by itself (an autograd function): what is in them is not read: R12"

TRAIN_DIFFERS = "not a site in train mode, where the model computes something else: R13"

NOT_TRAINED = "no gradient comes back to it (no_grad, detach or indices), so its gate would never be trained: R15"

MODULATION = "scales and shifts one map by what another gives (a condition): R16"

OUTPUTS = "adds up what several blocks put out, and ends none of them (skip outputs): R14"

RULES = {
    "R1": "a skip add has two different feature maps of one shape, made from the input, whose channel axis is known",
    "R2": "both operands lead back to one value, the fork",
    "R3": "one operand, the shortcut, is affine on its way from the fork",
    "R4": "beside the shortcut, the other operand (the branch) holds a convolution and something nonlinear",
    "R5": "slices of one split are added within a branch (Res2Net), not at its end",
    "R6": "maps that meet from several resolutions are a pyramid or an hourglass, not a block",
    "R7": "sums that a concat joins side by side are a cell's (NASNet), not blocks",
    "R8": "the gate reads the last convolution, norm or activation of the branch, before gains and drops",
    "R9": "adds that the same code makes at the same place get one verdict",
    "R10": "an affine branch is a block's where its norm and activation follow the add and such blocks repeat",
    "R11": "normal numbers drawn at each position are the spread of a sample (a VAE's), not a branch",
    "R12": "modules that a function with a backward of its own runs are not looked into: a gate would not be in it",
    "R13": "what is a site in eval mode alone is none: its gate would never be trained",
    "R14": "what blocks put out beside their ends, added up, ends no block (WaveNet, Conv-TasNet)",
    "R15": "what no gradient comes back to is none: its gate would never be trained (a frozen teacher)",
    "R16": "a map that is scaled and shifted by convolutions of a condition (SPADE) ends no block there",
    "M1": "a mixed block joins at least two feature maps along the channel axis",
    "M2": "its parts come from one fork",
    "M3": "its parts are parallel: none of them is on the way to another, and none is the fork",
    "M4": "a part holds a convolution",
    "M5": "its parts do not divide the channels of one split among them",
    "M6": "its parts hold no block ends, and it stands in no other block",
    "M7": "it stands in no cell whose sums are joined by a concat (NASNet)",
    "M8": "what it hands over is read by a further convolution or linear layer",
    "M9": "more than one of its parts convolves, and a reduction convolves more than once",
    "M10": "no part comes back from a coarser map (U-Net, hourglass, pooled context)",
    "M11": "concats that the same code makes at the same place get one verdict",
}  # fmt: skip


def code_of(reason: str) -> str:
    """The code of the rule that a reason ends in; empty for one that cites none.

    >>> from attn_inject.sites.reasons import code_of
    >>> code_of("adds a value to itself: R1"), code_of("its value reaches no output of the network")
    ('R1', '')
    """
    code = reason.rpartition(": ")[2]
    return code if code in RULES else ""
