"""The JSON of what was studied, as JSON Schema (2020-12): `Gates.to_json` and `choose --json`.

What holds for all of it is in `schema`.
"""

from __future__ import annotations

from .schema_words import (
    COUNT,
    DRAFT,
    FLAG,
    INTEGER,
    NUMBER,
    SIZE,
    TEXT,
    TEXTS,
    Schema,
    about,
    list_of,
    maybe,
    one_of,
    record,
)

GATES_FORMAT, GATES_VERSION = "attn-inject gates", 1
CHOICE_FORMAT, CHOICE_VERSION = "attn-inject choice", 1

_EFFECT = record(
    "What the network loses by a change of one site: the mean over images.",
    {
        "mean": about(NUMBER, "in `measure`; above 0 is lost"),
        "low": about(maybe(NUMBER), "of its interval; null where there are too few images"),
        "high": maybe(NUMBER),
    },
)
_RATIO = {
    "ratio": NUMBER,
    "low": NUMBER,
    "high": NUMBER,
    "confidence": NUMBER,
    "pairs": COUNT,
    "contended": about(FLAG, "whether other work kept the processor busy"),
    "resolved": about(FLAG, "whether the ratio may be claimed; else only its interval"),
}
_CHANNELS = about(
    list_of(maybe(NUMBER)),
    "one per channel, or per branch and channel; null where its input was always zero; empty where it was not "
    "looked at",
)

_GATE = record(
    "One site and what its attention did.",
    {
        "block": TEXT,
        "kind": one_of("residual", "mixed", "plain", "stage", "attention"),
        "stage": COUNT,
        "channels": COUNT,
        "size": about(SIZE, "spatial"),
        "calls": COUNT,
        "placement": TEXT,
        "attention": TEXT,
        "module": TEXT,
        "nature": about(
            one_of("gate", "branches", "map", "other"),
            "gate: one weight per channel; branches: one per branch and channel, which sum to 1 over the branches; "
            "map: explained by one per channel at best; other: has no weights",
        ),
        "top": about(NUMBER, "upper end of the gate, of which `closed` and `opened` are told"),
        "weight": about(maybe(NUMBER), "mean over channels and images"),
        "movement": about(maybe(NUMBER), "relative error made by putting the means in the place of the weights"),
        "closed": about(maybe(NUMBER), "share of channels stuck near zero"),
        "opened": about(maybe(NUMBER), "share of channels stuck at the upper end"),
        "between": about(maybe(NUMBER), "share of the spread between classes, adjusted for chance"),
        "percentiles": about(list_of(NUMBER), "of the channels' means: 0, 10, ... 100"),
        "figures": record(
            "Per channel.",
            {"mean": _CHANNELS, "spread": _CHANNELS, "closed": _CHANNELS, "opened": _CHANNELS, "between": _CHANNELS},
        ),
        "selective": list_of(
            record(
                "A channel that tells classes apart.",
                {
                    "channel": COUNT,
                    "between": NUMBER,
                    "class_means": about(list_of(NUMBER), "in the order of `classes`"),
                },
            )
        ),
        "frozen": about(maybe(_EFFECT), "with the weights' means in their place"),
        "without": about(maybe(_EFFECT), "with the attention taken out; null where it stands in another's place"),
        "verdict": one_of("constant", "pays", "harms", "not seen", ""),
    },
)

_FOLDING = record(
    "What gates became factors of the layers before them. Nothing is promised beyond images like those kept aside.",
    {
        "measure": about(one_of("accuracy", "outputs"), "what the tolerance is in"),
        "tolerance": about(NUMBER, "how much was allowed; of accuracy 0.01 is one point"),
        "images": about(COUNT, "kept aside, that `error` is of"),
        "error": _EFFECT,
        "folded": about(TEXTS, "blocks, the cheapest first"),
        "kept": list_of(record("A site that was not folded.", {"block": TEXT, "reason": TEXT})),
        "parameters": record("Of the whole model.", {"before": COUNT, "after": COUNT}),
        "speed": about(
            maybe(
                record(
                    "Median seconds per batch, and the time after over that before.",
                    {"before": NUMBER, "after": NUMBER, **_RATIO},
                )
            ),
            "null where nothing was folded, or speed was not asked for",
        ),
    },
)

GATES: Schema = {
    "$schema": DRAFT,
    **record(
        "What the gates of a model do on some data.",
        {
            "format": {"const": GATES_FORMAT},
            "version": {"const": GATES_VERSION},
            "title": TEXT,
            "data": TEXT,
            "synthetic": about(FLAG, "whether the data is noise, which says nothing about images"),
            "images": COUNT,
            "classes": about(list_of(INTEGER), "the targets that were followed"),
            "sites": list_of(_GATE),
            "measure": about(
                one_of("accuracy", "loss", "outputs"), "accuracy: share of right answers; outputs: relative change"
            ),
            "score": about(maybe(NUMBER), "of the model as it is, in `measure`"),
            "ablated_images": COUNT,
            "confidence": about(NUMBER, "of all intervals together"),
            "notes": TEXTS,
            "folding": about(maybe(_FOLDING), "null where nothing was to be folded"),
        },
    ),
}

_PRICE = record(
    "What something costs, for one image.",
    {
        "params": COUNT,
        "flops": COUNT,
        "traffic": about(COUNT, "bytes read and written"),
        "latency": about(NUMBER, "share of the plain model's time; 1 for the plain model itself"),
    },
)

_WORTH = record(
    "One attention at one site, trained with that attention at all sites.",
    {
        "block": TEXT,
        "kind": one_of("residual", "mixed", "plain", "stage", "attention"),
        "stage": COUNT,
        "channels": COUNT,
        "attention": TEXT,
        "module": TEXT,
        "worth": about(_EFFECT, "the loss that its ablation adds; bounds hold the interval of every seed"),
        "by_seed": about(list_of(NUMBER), "each seed's mean"),
        "price": _PRICE,
        "chosen": FLAG,
        "verdict": about(one_of("pays", "harms", "not seen", ""), "empty where images are too few for an interval"),
    },
)

_SET = record(
    "One set of sites, trained anew from every seed and judged on images that nothing was chosen by.",
    {
        "name": one_of("chosen", "none", "all", "last stage", "every second", "random"),
        "blocks": about(TEXTS, "empty where each seed has its own"),
        "sites": about(NUMBER, "mean over seeds"),
        "price": _PRICE,
        "fits": about(FLAG, "into the budget"),
        "loss": NUMBER,
        "accuracy": about(maybe(NUMBER), "share of right answers; null where targets are no classes"),
        "gain": about(maybe(_EFFECT), "the plain model's loss less this one's; null for the plain model"),
        "verdict": one_of("better", "worse", "not seen", ""),
    },
)

CHOICE: Schema = {
    "$schema": DRAFT,
    **record(
        "Where attention pays within a budget.",
        {
            "format": {"const": CHOICE_FORMAT},
            "version": {"const": CHOICE_VERSION},
            "title": TEXT,
            "data": TEXT,
            "images": about(list_of(COUNT), "trained on, measured on, judged by"),
            "seeds": COUNT,
            "steps": COUNT,
            "budget": about(TEXT, "empty where there is none"),
            "plan": {"type": "object", "description": "as in saved files"},
            "sites": list_of(_WORTH),
            "rows": list_of(_SET),
            "plain": about(_PRICE, "of the model without attention"),
            "basis": about(one_of("measured", "traffic", ""), "what a latency budget was kept by"),
            "latency": maybe(record("The chosen set's time over the plain model's.", _RATIO)),
            "confidence": about(NUMBER, "of all intervals of a table together"),
            "notes": TEXTS,
        },
    ),
}
