"""The JSON that `to_json` of `Report` and `Comparison` writes, as JSON Schema (2020-12); `study_schema` has the others.

Units: counts are plain integers, bytes are bytes, times are seconds, ratios are after over before, percentages are of
before. Counts are for one image in inference; times are per batch. Every key is always there; what was not measured is
null. Within version 1 keys may be added, but none will go or change its meaning.
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

REPORT_FORMAT, REPORT_VERSION = "attn-inject report", 1
COMPARISON_FORMAT, COMPARISON_VERSION = "attn-inject comparison", 1

_COST = record(
    "What something adds; negative where something went.",
    {
        "parameters": INTEGER,
        "buffers": INTEGER,
        "macs": about(INTEGER, "multiply-accumulates of convolutions, linears and matrix products"),
        "flops": about(INTEGER, "two per MAC, and in the convention `all` elementwise and pooling work too"),
        "activations": about(INTEGER, "elements of freshly made results"),
        "activation_bytes": INTEGER,
        "bytes_read": INTEGER,
        "bytes_written": INTEGER,
    },
)

_TOTAL = record(
    "One total before and after.",
    {
        "name": TEXT,
        "unit": one_of("count", "operations", "bytes"),
        "before": COUNT,
        "after": COUNT,
        "difference": INTEGER,
        "percent": about(maybe(NUMBER), "null where there was nothing before"),
    },
)

_SITE = record(
    "One site and what its new module adds, less what it replaces.",
    {
        "block": about(TEXT, "path of the module whose forward hands the value over; empty for the model itself"),
        "kind": one_of("residual", "mixed", "plain", "stage", "attention"),
        "stage": about(COUNT, "maps of stage n are 2**n times smaller than the input"),
        "channels": COUNT,
        "size": about(SIZE, "spatial"),
        "calls": about(COUNT, "how often the block runs in one forward pass"),
        "placement": TEXT,
        "attention": TEXT,
        "options": {"type": "object"},
        "module": about(TEXT, "path of the new module"),
        "replaces": about(maybe(TEXT), "path of the module that it takes the place of"),
        "added": _COST,
        "seconds": about(maybe(NUMBER), "inside the new module, less inside what it replaces"),
        "time_share": about(maybe(NUMBER), "percent of the sum of `seconds` over all sites; null where not resolved"),
    },
)

_STAGE = record(
    "All sites of one stage together.",
    {"stage": COUNT, "sites": COUNT, "added": _COST, "seconds": maybe(NUMBER), "time_share": maybe(NUMBER)},
)

_BLOCK = record(
    "One block of the original model, in order of execution.",
    {
        "paths": about(TEXTS, "several where layers without blocks follow one another"),
        "stage": about(maybe(COUNT), "null where what it gives is no map"),
        "size": about(SIZE, "spatial, of what it gives"),
        "cost": _COST,
        "added": _COST,
        "sites": about(TEXTS, "paths of the new modules in it"),
    },
)

_TIMING = record(
    "One model's latency per batch.",
    {
        "median": NUMBER,
        "low_quartile": NUMBER,
        "high_quartile": NUMBER,
        "images_per_second": NUMBER,
        "peak_bytes": about(maybe(COUNT), "of the allocator beside the weights; null on a CPU"),
    },
)

_KEEPING = record(
    "What one model's training step keeps.",
    {"kept_bytes": about(COUNT, "for the backward pass, per batch"), "largest_batch": COUNT},
)

_STEP_MEMORY = record(
    "What training steps keep, counted.",
    {
        "memory_bytes": about(COUNT, "of the device; weights, gradients and what is kept fit into it"),
        "before": _KEEPING,
        "after": _KEEPING,
        "optimized": about(maybe(_KEEPING), "after `optimize_training`; null for a model without a graph"),
    },
)

_SPEED = record(
    "Both models timed in turns.",
    {
        "task": one_of("inference", "training step"),
        "device_kind": one_of("cpu", "cuda"),
        "device": TEXT,
        "clock": TEXT,
        "dtype": TEXT,
        "batch": COUNT,
        "channels_last": FLAG,
        "compiled": FLAG,
        "before": _TIMING,
        "after": _TIMING,
        "ratio": about(NUMBER, "median over the pairs of after / before"),
        "ratio_low": NUMBER,
        "ratio_high": NUMBER,
        "confidence": about(NUMBER, "of the interval from ratio_low to ratio_high; 0.95 unless the pairs are too few"),
        "pairs": COUNT,
        "pairs_wanted": COUNT,
        "limited": about(FLAG, "whether the time limit left fewer pairs than wanted"),
        "seconds_limit": NUMBER,
        "floor_bytes": about(maybe(INTEGER), "memory traffic that the patched model has more, per batch"),
        "floor_seconds": about(maybe(NUMBER), "what that traffic takes at `bandwidth`"),
        "bandwidth": about(maybe(NUMBER), "bytes per second of a plain copy on the device"),
        "threads": about(maybe(COUNT), "of torch on a CPU"),
        "cores_used": about(maybe(NUMBER), "by this process, on average, on a CPU"),
        "cores_busy_elsewhere": about(maybe(NUMBER), "with everything else, meanwhile"),
        "contended": about(FLAG, "whether this process had to wait for its processor"),
        "memory": about(maybe(_STEP_MEMORY), "of a training step; null where it was not counted"),
        "resolved": about(FLAG, "whether the ratio may be claimed; else only its interval"),
    },
)

_NODE = record(
    "One operation of a block.",
    {"name": TEXT, "label": TEXT, "mark": one_of("kept", "new", "gone"), "reads": TEXTS},
)

_DIFF = record(
    "How the blocks of one shape changed.",
    {
        "blocks": TEXTS,
        "lines": list_of(record("A line of code.", {"mark": one_of("kept", "new", "gone"), "text": TEXT})),
        "before": list_of(_NODE),
        "after": list_of(_NODE),
    },
)

_GUARD = record("A decision of the model's code.", {"line": TEXT, "outcome": TEXT})
_INPUT = record(
    "One tensor that the model is given.",
    {"name": about(TEXT, "its argument"), "size": about(SIZE, "without the batch"), "dtype": TEXT},
)
_CHECK = record("One postcondition.", {"name": TEXT, "passed": FLAG, "figure": TEXT})

REPORT: Schema = {
    "$schema": DRAFT,
    **record(
        "What attention costs a model.",
        {
            "format": {"const": REPORT_FORMAT},
            "version": {"const": REPORT_VERSION},
            "title": TEXT,
            "input_size": about(SIZE, "channels, then spatial; the first input's where there are several"),
            "dtype": TEXT,
            "convention": one_of("all", "paper"),
            "units": about(one_of("decimal", "binary"), "of the views; the numbers here are in full"),
            "totals": list_of(_TOTAL),
            "sites": list_of(_SITE),
            "stages": list_of(_STAGE),
            "outside": about(_COST, "what changed outside the new modules"),
            "speeds": list_of(_SPEED),
            "unknown": {
                "type": "object",
                "description": "operations whose arithmetic was not counted, and how often each ran",
                "additionalProperties": COUNT,
            },
            "diffs": list_of(_DIFF),
            "notes": TEXTS,
            "not_kept": TEXTS,
            "guards": about(list_of(_GUARD), "what the model's code decided on sizes, each checked when it runs"),
            "any_size": about(FLAG, "whether another input size gave the same graph"),
            "checks": list_of(_CHECK),
            "versions": {"type": "object", "additionalProperties": TEXT},
            "inputs": list_of(_INPUT),
            "blocks": list_of(_BLOCK),
            "made": about(TEXT, "when, ISO 8601 in UTC"),
            "command": about(TEXT, "the command line; empty for a report made in Python"),
        },
    ),
}

_CANDIDATE = record(
    "One model with one attention at one placement; the plain model has the attention `none`.",
    {
        "model": TEXT,
        "attention": TEXT,
        "placement": TEXT,
        "sites": COUNT,
        "parameters": maybe(COUNT),
        "macs": maybe(COUNT),
        "flops": maybe(COUNT),
        "traffic": about(maybe(COUNT), "bytes that its operations read and write for one image"),
        "seconds": maybe(NUMBER),
        "ratio": maybe(NUMBER),
        "ratio_low": maybe(NUMBER),
        "ratio_high": maybe(NUMBER),
        "confidence": about(maybe(NUMBER), "of the interval from ratio_low to ratio_high"),
        "pairs": about(maybe(COUNT), "rounds in which all candidates of the model ran in turns"),
        "contended": about(FLAG, "whether the processor was busy with something else meanwhile"),
        "resolved": about(FLAG, "whether the ratio may be claimed; else only its interval"),
        "accuracy": about(maybe(NUMBER), "mean over the seeds of a sweep that trained"),
        "accuracy_low": about(maybe(NUMBER), "of its interval; null for a single seed"),
        "accuracy_high": maybe(NUMBER),
        "as_published": about(
            maybe(COUNT), "parameters with it in the place of convolutions, where its paper has it; null if it is there"
        ),
        "problem": about(maybe(TEXT), "why the combination could not be made"),
        "on_front": about(FLAG, "whether it is smaller, or resolvedly faster (or has fewer FLOPs), than all others"),
    },
)

COMPARISON: Schema = {
    "$schema": DRAFT,
    **record(
        "Many attentions side by side.",
        {
            "format": {"const": COMPARISON_FORMAT},
            "version": {"const": COMPARISON_VERSION},
            "candidates": list_of(_CANDIDATE),
            "measure": one_of("latency", "FLOPs"),
            "device": maybe(TEXT),
            "convention": one_of("all", "paper"),
            "units": one_of("decimal", "binary"),
        },
    ),
}
