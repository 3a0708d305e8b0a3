"""The JSON that `to_json` of `Report`, `Comparison` and `Gates` writes, and `choose --json`, as JSON Schema (2020-12).

Units: counts are plain integers, bytes are bytes, times are seconds, ratios are after over before, percentages are of
before. Counts are for one image in inference; times are per batch. Every key is always there; what was not measured is
null. Within version 1 keys may be added, but none will go or change its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REPORT_FORMAT, REPORT_VERSION = "attn-inject report", 1
COMPARISON_FORMAT, COMPARISON_VERSION = "attn-inject comparison", 1
GATES_FORMAT, GATES_VERSION = "attn-inject gates", 1
CHOICE_FORMAT, CHOICE_VERSION = "attn-inject choice", 1

_DRAFT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_NUMBER: Schema = {"type": "number"}
_INTEGER: Schema = {"type": "integer"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_FLAG: Schema = {"type": "boolean"}
_SIZE: Schema = {"type": "array", "items": {"type": "integer", "minimum": 1}}


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _record(description: str, properties: Mapping[str, Schema]) -> Schema:
    """An object with exactly these keys."""
    return {
        "type": "object",
        "description": description,
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def _about(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


_COST = _record(
    "What something adds; negative where something went.",
    {
        "parameters": _INTEGER,
        "buffers": _INTEGER,
        "macs": _about(_INTEGER, "multiply-accumulates of convolutions, linears and matrix products"),
        "flops": _about(_INTEGER, "two per MAC, and in the convention `all` elementwise and pooling work too"),
        "activations": _about(_INTEGER, "elements of freshly made results"),
        "activation_bytes": _INTEGER,
        "bytes_read": _INTEGER,
        "bytes_written": _INTEGER,
    },
)

_TOTAL = _record(
    "One total before and after.",
    {
        "name": _TEXT,
        "unit": _one_of("count", "operations", "bytes"),
        "before": _COUNT,
        "after": _COUNT,
        "difference": _INTEGER,
        "percent": _about(_maybe(_NUMBER), "null where there was nothing before"),
    },
)

_SITE = _record(
    "One site and what its new module adds, less what it replaces.",
    {
        "block": _about(_TEXT, "path of the module whose forward hands the value over; empty for the model itself"),
        "kind": _one_of("residual", "mixed", "plain", "stage", "attention"),
        "stage": _about(_COUNT, "maps of stage n are 2**n times smaller than the input"),
        "channels": _COUNT,
        "size": _about(_SIZE, "spatial"),
        "calls": _about(_COUNT, "how often the block runs in one forward pass"),
        "placement": _TEXT,
        "attention": _TEXT,
        "options": {"type": "object"},
        "module": _about(_TEXT, "path of the new module"),
        "replaces": _about(_maybe(_TEXT), "path of the module that it takes the place of"),
        "added": _COST,
        "seconds": _about(_maybe(_NUMBER), "inside the new module, less inside what it replaces"),
        "time_share": _about(
            _maybe(_NUMBER), "percent of the sum of `seconds` over all sites; null where not resolved"
        ),
    },
)

_STAGE = _record(
    "All sites of one stage together.",
    {"stage": _COUNT, "sites": _COUNT, "added": _COST, "seconds": _maybe(_NUMBER), "time_share": _maybe(_NUMBER)},
)

_BLOCK = _record(
    "One block of the original model, in order of execution.",
    {
        "paths": _about(_TEXTS, "several where layers without blocks follow one another"),
        "stage": _about(_maybe(_COUNT), "null where what it gives is no map"),
        "size": _about(_SIZE, "spatial, of what it gives"),
        "cost": _COST,
        "added": _COST,
        "sites": _about(_TEXTS, "paths of the new modules in it"),
    },
)

_TIMING = _record(
    "One model's latency per batch.",
    {
        "median": _NUMBER,
        "low_quartile": _NUMBER,
        "high_quartile": _NUMBER,
        "images_per_second": _NUMBER,
        "peak_bytes": _about(_maybe(_COUNT), "of the allocator beside the weights; null on a CPU"),
    },
)

_KEEPING = _record(
    "What one model's training step keeps.",
    {"kept_bytes": _about(_COUNT, "for the backward pass, per batch"), "largest_batch": _COUNT},
)

_STEP_MEMORY = _record(
    "What training steps keep, counted.",
    {
        "memory_bytes": _about(_COUNT, "of the device; weights, gradients and what is kept fit into it"),
        "before": _KEEPING,
        "after": _KEEPING,
        "optimized": _about(_maybe(_KEEPING), "after `optimize_training`; null for a model without a graph"),
    },
)

_SPEED = _record(
    "Both models timed in turns.",
    {
        "task": _one_of("inference", "training step"),
        "device_kind": _one_of("cpu", "cuda"),
        "device": _TEXT,
        "clock": _TEXT,
        "dtype": _TEXT,
        "batch": _COUNT,
        "channels_last": _FLAG,
        "compiled": _FLAG,
        "before": _TIMING,
        "after": _TIMING,
        "ratio": _about(_NUMBER, "median over the pairs of after / before"),
        "ratio_low": _NUMBER,
        "ratio_high": _NUMBER,
        "confidence": _about(
            _NUMBER, "of the interval from ratio_low to ratio_high; 0.95 unless the pairs are too few"
        ),
        "pairs": _COUNT,
        "pairs_wanted": _COUNT,
        "limited": _about(_FLAG, "whether the time limit left fewer pairs than wanted"),
        "seconds_limit": _NUMBER,
        "floor_bytes": _about(_maybe(_INTEGER), "memory traffic that the patched model has more, per batch"),
        "floor_seconds": _about(_maybe(_NUMBER), "what that traffic takes at `bandwidth`"),
        "bandwidth": _about(_maybe(_NUMBER), "bytes per second of a plain copy on the device"),
        "threads": _about(_maybe(_COUNT), "of torch on a CPU"),
        "cores_used": _about(_maybe(_NUMBER), "by this process, on average, on a CPU"),
        "cores_busy_elsewhere": _about(_maybe(_NUMBER), "with everything else, meanwhile"),
        "contended": _about(_FLAG, "whether this process had to wait for its processor"),
        "memory": _about(_maybe(_STEP_MEMORY), "of a training step; null where it was not counted"),
        "resolved": _about(_FLAG, "whether the ratio may be claimed; else only its interval"),
    },
)

_NODE = _record(
    "One operation of a block.",
    {"name": _TEXT, "label": _TEXT, "mark": _one_of("kept", "new", "gone"), "reads": _TEXTS},
)

_DIFF = _record(
    "How the blocks of one shape changed.",
    {
        "blocks": _TEXTS,
        "lines": _list(_record("A line of code.", {"mark": _one_of("kept", "new", "gone"), "text": _TEXT})),
        "before": _list(_NODE),
        "after": _list(_NODE),
    },
)

_GUARD = _record("A decision of the model's code.", {"line": _TEXT, "outcome": _TEXT})
_INPUT = _record(
    "One tensor that the model is given.",
    {"name": _about(_TEXT, "its argument"), "size": _about(_SIZE, "without the batch"), "dtype": _TEXT},
)
_CHECK = _record("One postcondition.", {"name": _TEXT, "passed": _FLAG, "figure": _TEXT})

REPORT: Schema = {
    "$schema": _DRAFT,
    **_record(
        "What attention costs a model.",
        {
            "format": {"const": REPORT_FORMAT},
            "version": {"const": REPORT_VERSION},
            "title": _TEXT,
            "input_size": _about(_SIZE, "channels, then spatial; the first input's where there are several"),
            "dtype": _TEXT,
            "convention": _one_of("all", "paper"),
            "units": _about(_one_of("decimal", "binary"), "of the views; the numbers here are in full"),
            "totals": _list(_TOTAL),
            "sites": _list(_SITE),
            "stages": _list(_STAGE),
            "outside": _about(_COST, "what changed outside the new modules"),
            "speeds": _list(_SPEED),
            "unknown": {
                "type": "object",
                "description": "operations whose arithmetic was not counted, and how often each ran",
                "additionalProperties": _COUNT,
            },
            "diffs": _list(_DIFF),
            "notes": _TEXTS,
            "not_kept": _TEXTS,
            "guards": _about(_list(_GUARD), "what the model's code decided on sizes, each checked when it runs"),
            "any_size": _about(_FLAG, "whether another input size gave the same graph"),
            "checks": _list(_CHECK),
            "versions": {"type": "object", "additionalProperties": _TEXT},
            "inputs": _list(_INPUT),
            "blocks": _list(_BLOCK),
            "made": _about(_TEXT, "when, ISO 8601 in UTC"),
            "command": _about(_TEXT, "the command line; empty for a report made in Python"),
        },
    ),
}

_CANDIDATE = _record(
    "One model with one attention at one placement; the plain model has the attention `none`.",
    {
        "model": _TEXT,
        "attention": _TEXT,
        "placement": _TEXT,
        "sites": _COUNT,
        "parameters": _maybe(_COUNT),
        "macs": _maybe(_COUNT),
        "flops": _maybe(_COUNT),
        "traffic": _about(_maybe(_COUNT), "bytes that its operations read and write for one image"),
        "seconds": _maybe(_NUMBER),
        "ratio": _maybe(_NUMBER),
        "ratio_low": _maybe(_NUMBER),
        "ratio_high": _maybe(_NUMBER),
        "confidence": _about(_maybe(_NUMBER), "of the interval from ratio_low to ratio_high"),
        "pairs": _about(_maybe(_COUNT), "rounds in which all candidates of the model ran in turns"),
        "contended": _about(_FLAG, "whether the processor was busy with something else meanwhile"),
        "resolved": _about(_FLAG, "whether the ratio may be claimed; else only its interval"),
        "accuracy": _about(_maybe(_NUMBER), "mean over the seeds of a sweep that trained"),
        "accuracy_low": _about(_maybe(_NUMBER), "of its interval; null for a single seed"),
        "accuracy_high": _maybe(_NUMBER),
        "problem": _about(_maybe(_TEXT), "why the combination could not be made"),
        "on_front": _about(_FLAG, "whether it is smaller, or resolvedly faster (or has fewer FLOPs), than all others"),
    },
)

COMPARISON: Schema = {
    "$schema": _DRAFT,
    **_record(
        "Many attentions side by side.",
        {
            "format": {"const": COMPARISON_FORMAT},
            "version": {"const": COMPARISON_VERSION},
            "candidates": _list(_CANDIDATE),
            "measure": _one_of("latency", "FLOPs"),
            "device": _maybe(_TEXT),
            "convention": _one_of("all", "paper"),
            "units": _one_of("decimal", "binary"),
        },
    ),
}

_EFFECT = _record(
    "What the network loses by a change of one site: the mean over images.",
    {
        "mean": _about(_NUMBER, "in `measure`; above 0 is lost"),
        "low": _about(_maybe(_NUMBER), "of its interval; null where there are too few images"),
        "high": _maybe(_NUMBER),
    },
)
_CHANNELS = _about(
    _list(_maybe(_NUMBER)), "one per channel; null where its input was always zero; empty where it was not looked at"
)

_GATE = _record(
    "One site and what its attention did.",
    {
        "block": _TEXT,
        "kind": _one_of("residual", "mixed", "plain", "stage", "attention"),
        "stage": _COUNT,
        "channels": _COUNT,
        "size": _about(_SIZE, "spatial"),
        "calls": _COUNT,
        "placement": _TEXT,
        "attention": _TEXT,
        "module": _TEXT,
        "nature": _about(
            _one_of("gate", "map", "other"),
            "gate: one weight per channel; map: explained by one per channel at best; other: has no weights",
        ),
        "top": _about(_NUMBER, "upper end of the gate, of which `closed` and `opened` are told"),
        "weight": _about(_maybe(_NUMBER), "mean over channels and images"),
        "movement": _about(_maybe(_NUMBER), "relative error made by putting the means in the place of the weights"),
        "closed": _about(_maybe(_NUMBER), "share of channels stuck near zero"),
        "opened": _about(_maybe(_NUMBER), "share of channels stuck at the upper end"),
        "between": _about(_maybe(_NUMBER), "share of the spread between classes, adjusted for chance"),
        "percentiles": _about(_list(_NUMBER), "of the channels' means: 0, 10, ... 100"),
        "figures": _record(
            "Per channel.",
            {"mean": _CHANNELS, "spread": _CHANNELS, "closed": _CHANNELS, "opened": _CHANNELS, "between": _CHANNELS},
        ),
        "selective": _list(
            _record(
                "A channel that tells classes apart.",
                {
                    "channel": _COUNT,
                    "between": _NUMBER,
                    "class_means": _about(_list(_NUMBER), "in the order of `classes`"),
                },
            )
        ),
        "frozen": _about(_maybe(_EFFECT), "with the weights' means in their place"),
        "without": _about(_maybe(_EFFECT), "with the attention taken out"),
        "verdict": _one_of("constant", "pays", "harms", "not seen", ""),
    },
)

GATES: Schema = {
    "$schema": _DRAFT,
    **_record(
        "What the gates of a model do on some data.",
        {
            "format": {"const": GATES_FORMAT},
            "version": {"const": GATES_VERSION},
            "title": _TEXT,
            "data": _TEXT,
            "synthetic": _about(_FLAG, "whether the data is noise, which says nothing about images"),
            "images": _COUNT,
            "classes": _about(_list(_INTEGER), "the targets that were followed"),
            "sites": _list(_GATE),
            "measure": _about(
                _one_of("accuracy", "loss", "outputs"), "accuracy: share of right answers; outputs: relative change"
            ),
            "score": _about(_maybe(_NUMBER), "of the model as it is, in `measure`"),
            "ablated_images": _COUNT,
            "confidence": _about(_NUMBER, "of all intervals together"),
            "notes": _TEXTS,
        },
    ),
}

_PRICE = _record(
    "What something costs, for one image.",
    {
        "params": _COUNT,
        "flops": _COUNT,
        "traffic": _about(_COUNT, "bytes read and written"),
        "latency": _about(_NUMBER, "share of the plain model's time; 1 for the plain model itself"),
    },
)

_WORTH = _record(
    "One attention at one site, trained with that attention at all sites.",
    {
        "block": _TEXT,
        "kind": _one_of("residual", "mixed", "plain", "stage", "attention"),
        "stage": _COUNT,
        "channels": _COUNT,
        "attention": _TEXT,
        "module": _TEXT,
        "worth": _about(_EFFECT, "the loss that its ablation adds; bounds hold the interval of every seed"),
        "by_seed": _about(_list(_NUMBER), "each seed's mean"),
        "price": _PRICE,
        "chosen": _FLAG,
        "verdict": _about(_one_of("pays", "harms", "not seen", ""), "empty where images are too few for an interval"),
    },
)

_SET = _record(
    "One set of sites, trained anew from every seed and judged on images that nothing was chosen by.",
    {
        "name": _one_of("chosen", "none", "all", "last stage", "every second", "random"),
        "blocks": _about(_TEXTS, "empty where each seed has its own"),
        "sites": _about(_NUMBER, "mean over seeds"),
        "price": _PRICE,
        "fits": _about(_FLAG, "into the budget"),
        "loss": _NUMBER,
        "accuracy": _about(_maybe(_NUMBER), "share of right answers; null where targets are no classes"),
        "gain": _about(_maybe(_EFFECT), "the plain model's loss less this one's; null for the plain model"),
        "verdict": _one_of("better", "worse", "not seen", ""),
    },
)

_RATIO = _record(
    "The chosen set's time over the plain model's.",
    {
        "ratio": _NUMBER,
        "low": _NUMBER,
        "high": _NUMBER,
        "confidence": _NUMBER,
        "pairs": _COUNT,
        "contended": _FLAG,
        "resolved": _about(_FLAG, "whether the ratio may be claimed; else only its interval"),
    },
)

CHOICE: Schema = {
    "$schema": _DRAFT,
    **_record(
        "Where attention pays within a budget.",
        {
            "format": {"const": CHOICE_FORMAT},
            "version": {"const": CHOICE_VERSION},
            "title": _TEXT,
            "data": _TEXT,
            "images": _about(_list(_COUNT), "trained on, measured on, judged by"),
            "seeds": _COUNT,
            "steps": _COUNT,
            "budget": _about(_TEXT, "empty where there is none"),
            "plan": {"type": "object", "description": "as in saved files"},
            "sites": _list(_WORTH),
            "rows": _list(_SET),
            "plain": _about(_PRICE, "of the model without attention"),
            "basis": _about(_one_of("measured", "traffic", ""), "what a latency budget was kept by"),
            "latency": _maybe(_RATIO),
            "confidence": _about(_NUMBER, "of all intervals of a table together"),
            "notes": _TEXTS,
        },
    ),
}
