"""The papers' attentions, one entry each: a literal table, so that listing them imports nothing."""

from __future__ import annotations

from dataclasses import dataclass

from .base import Family


@dataclass(frozen=True)
class Paper:
    """Where a published attention is, and what listings say of it.

    `home` and `cls` are the module in this room and the class in it, `child` the attribute name of new modules; `paper`
    is an arXiv number, or where it was published. `kind` is as in `Attention`.
    """

    home: str
    cls: str
    child: str
    summary: str
    paper: str
    family: Family
    year: int
    kind: str = "gate"


PAPERS: dict[str, Paper] = {
    "se": Paper(
        "se", "SE", "se", "Squeeze-and-Excitation: pool, C -> C/16 -> C, sigmoid", "1709.01507", "channel", 2017
    ),
    "eca": Paper(
        "eca",
        "ECA",
        "eca",
        "Efficient Channel Attention: one kernel of k weights across the channels",
        "1910.03151",
        "channel",
        2019,
    ),
    "psa": Paper(
        "psa",
        "PSA",
        "psa",
        "Pyramid Squeeze Attention: four kernel sizes, weighted (not polarized)",
        "2105.14447",
        "branch",
        2021,
        "features",
    ),
    "se-var1": Paper(
        "variants", "SEVar1", "se_var1", "ECA paper, Table 2: no weights at all", "1910.03151", "channel", 2019
    ),
    "se-var2": Paper(
        "variants", "SEVar2", "se_var2", "ECA paper, Table 2: one weight per channel", "1910.03151", "channel", 2019
    ),
    "se-var3": Paper(
        "variants", "SEVar3", "se_var3", "ECA paper, Table 2: one full layer", "1910.03151", "channel", 2019
    ),
    "se-gc": Paper(
        "variants", "SEGC", "se_gc", "ECA paper, Table 2: one layer in G groups", "1910.03151", "channel", 2019
    ),
    "eca-ns": Paper(
        "variants",
        "ECANS",
        "eca_ns",
        "ECA paper, Table 2: k weights per channel, not shared",
        "1910.03151",
        "channel",
        2019,
    ),
    "cbam": Paper(
        "cbam",
        "CBAM",
        "cbam",
        "Convolutional Block Attention: a gate per channel, then one per position",
        "1807.06521",
        "both",
        2018,
        "map",
    ),
    "bam": Paper(
        "bam",
        "BAM",
        "bam",
        "Bottleneck Attention: channels times dilated positions, added to the map",
        "1807.06514",
        "both",
        2018,
        "features",
    ),
    "scse": Paper(
        "scse",
        "SCSE",
        "scse",
        "Concurrent spatial and channel Squeeze-and-Excitation",
        "1803.02579",
        "both",
        2018,
        "map",
    ),
    "coord": Paper(
        "coord",
        "CoordinateAttention",
        "coord",
        "Coordinate attention: a gate along each axis, through one bottleneck",
        "2103.02907",
        "both",
        2021,
        "map",
    ),
    "ela": Paper(
        "ela",
        "ELA",
        "ela",
        "Efficient local attention: a 1D convolution and a group norm along each axis",
        "2403.01123",
        "spatial",
        2024,
        "map",
    ),
    "ema": Paper(
        "ema",
        "EMA",
        "ema",
        "Efficient multi-scale attention: groups, coordinate and 3x3 branches crossed",
        "2305.13563",
        "both",
        2023,
        "features",
    ),
    "triplet": Paper(
        "triplet",
        "TripletAttention",
        "triplet",
        "Triplet attention: gates over each pair of channels, height and width",
        "2010.03045",
        "both",
        2020,
        "map",
    ),
    "sk": Paper(
        "sk",
        "SK",
        "sk",
        "Selective kernels: branches of growing kernels, weighted by channel",
        "1903.06586",
        "branch",
        2019,
        "features",
    ),
    "simam": Paper(
        "simam",
        "SimAM",
        "simam",
        "SimAM: each position by its distance from its channel's mean; no parameters",
        "ICML 2021",
        "both",
        2021,
        "features",
    ),
    "sa": Paper(
        "shuffle",
        "ShuffleAttention",
        "sa",
        "Shuffle attention: half of each group by channel, half by position",
        "2102.00240",
        "both",
        2021,
        "features",
    ),
    "lska": Paper(
        "lska",
        "LSKA",
        "lska",
        "Large separable kernel attention: depthwise kernels along each axis",
        "2309.01439",
        "spatial",
        2023,
        "map",
    ),
    "polarized": Paper(
        "polarized",
        "PolarizedSelfAttention",
        "polarized",
        "Polarized self-attention, which others call PSA too (psa is the pyramid)",
        "2107.00782",
        "both",
        2021,
        "features",
    ),
    "gc": Paper(
        "gc",
        "GC",
        "gc",
        "Global Context: positions pooled by attention, added to all",
        "1904.11492",
        "context",
        2019,
        "map",
    ),
    "ge": Paper(
        "ge",
        "gather_excite",
        "ge",
        "Gather-Excite: means near or far, no parameter; variants with convolutions",
        "1810.12348",
        "context",
        2018,
        "map",
    ),
    "srm": Paper(
        "srm",
        "SRM",
        "srm",
        "Style-based Recalibration: mean and deviation of each channel",
        "1903.10829",
        "channel",
        2019,
    ),
    "gct": Paper(
        "gct", "GCT", "gct", "Gated Channel Transformation: norms of channels, 1 + tanh", "1909.11519", "channel", 2019
    ),
    "gaussian-gct": Paper(
        "gaussian_gct",
        "GaussianGCT",
        "gaussian_gct",
        "Gaussian Context Transformer: the further from the mean, the less; no parameter",
        "CVPR 2021",
        "channel",
        2021,
    ),
    "lct": Paper(
        "lct",
        "LCT",
        "lct",
        "Linear Context Transform: means normalised in groups, a line each",
        "1909.03834",
        "channel",
        2019,
    ),
    "fca": Paper(
        "fca", "FCA", "fca", "Frequency Channel Attention: SE on DCT coefficients", "2012.11879", "channel", 2020
    ),
    "nam": Paper(
        "nam",
        "NAM",
        "nam",
        "Normalization-based Attention: the norm's own weights",
        "2111.12419",
        "channel",
        2021,
        "features",
    ),
    "sge": Paper(
        "sge",
        "SGE",
        "sge",
        "Spatial Group-wise Enhance: likeness to the group's mean",
        "1905.09646",
        "spatial",
        2019,
        "features",
    ),
    "gam": Paper(
        "gam",
        "GAM",
        "gam",
        "Global Attention: channels, then 7x7 convolutions, nothing pooled",
        "2112.05561",
        "both",
        2021,
        "features",
    ),
    "mlca": Paper(
        "mlca",
        "MLCA",
        "mlca",
        "Mixed Local Channel Attention: ECA on 5x5 patches and on the whole",
        "Wan et al. 2023",
        "both",
        2023,
        "features",
    ),
    "double": Paper(
        "double",
        "DoubleAttention",
        "double",
        "Double Attention (A2-Nets): gather from all positions, distribute to each",
        "1810.11579",
        "context",
        2018,
        "map",
    ),
}
