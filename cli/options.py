"""The options, as annotated types: how each is spelled, explained and grouped in the help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Annotated, Any

import typer

from attn_inject.planning.choices import Choices
from attn_inject.reporting.settings import ReportSettings
from attn_inject.types import EXISTING, FOLD_MEASURES, FORMS, INITS, KINDS, PLACEMENTS, PRESETS


def _one_of(allowed: Sequence[str]) -> Callable[[str | None], str | None]:
    """A check of one word. typer's own choices would need an enumeration beside the tuples in `types`."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in allowed:
            raise typer.BadParameter(f"'{value}' is not one of {', '.join(allowed)}")
        return value

    return check


def _default(name: str) -> str:
    """What holds without the option, from where that is settled: ` (default: auto)`."""
    defaults = {item.name: item.default for settings in (Choices, ReportSettings) for item in fields(settings)}
    value = defaults[name]
    words = ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else value
    return f" (default: {words})"


def _model(*names: str, **about: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Model", show_default=False, **about)


def _attention(*names: str, **about: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Attention", show_default=False, **about)


def _sites(*names: str, **about: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Where it goes", show_default=False, **about)


def _report(*names: str, **about: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Report", show_default=False, **about)


def _speed(*names: str, **about: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Speed", show_default=False, **about)


def _output(*names: str, **about: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Output", show_default=False, **about)


_MODEL_HELP = (
    "A name (torchvision's first, then timm's), timm:NAME, torchvision:NAME, cifar:NAME, package.module:factory"
    " or file.py:factory."
)
Model = Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL_HELP, show_default=False)]
Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="MODEL...", help="Models, and .pt or .safetensors files of ours.", show_default=False),
]
ModelOrRecipe = Annotated[str | None, typer.Argument(metavar="MODEL", help=_MODEL_HELP, show_default=False)]
Recipe = Annotated[
    str | None, _model("--recipe", metavar="NAME", help="Model and options of a published network, or of a .toml file.")
]
Recipes = Annotated[
    list[str] | None,
    _model("--recipe", metavar="NAME", help="A published network, or a .toml file, beside them; repeatable."),
]
TrustSource = Annotated[bool, typer.Option("--trust-source", help="Import code of somebody's own that FILE names.")]
ModelArgs = Annotated[list[str] | None, _model("--model-arg", metavar="K=V", help="Argument of the model's factory.")]
Pretrained = Annotated[bool, _model("--pretrained", help="Download the zoo's weights.")]
Checkpoint = Annotated[
    str | None, _model("--checkpoint", metavar="FILE", help="Take the weights from .pt, .pth or .safetensors.")
]
Seed = Annotated[int | None, _model("--seed", metavar="N", help="Make random weights repeatable.")]
ExampleInputs = Annotated[
    list[str] | None,
    _model(
        "--example-input",
        metavar="NAME=SIZE[:TYPE]",
        help="For several inputs, or named ones: mask=1x32x32:bool. Repeat it; NAME is forward's argument.",
    ),
]
InputSize = Annotated[
    str | None,
    _model(
        "--input-size",
        metavar="SIZE",
        help="Of one input: 224, 192x224, 3x224x224, 3x16x112x112 (default: what the model is made for).",
    ),
]

AttentionName = Annotated[
    list[str] | None,
    _attention(
        "--attention",
        "-a",
        metavar="NAME",
        help="se, se:reduction=4, timm:NAME, package.module:Class, file.py:Class ('attn-inject attentions' lists all);"
        " none takes it out.",
    ),
]
AttentionNames = Annotated[
    list[str] | None,
    _attention("--attention", "-a", metavar="NAME", help="One, such as se:reduction=4; repeat it."),
]
AttentionOptions = Annotated[list[str] | None, _attention("--option", "-o", metavar="K=V", help="One of its options.")]
Reduction = Annotated[int | None, _attention("--reduction", metavar="N", help="Short for -o reduction=N.")]
KernelSize = Annotated[int | None, _attention("--k", metavar="N", help="Short for -o k=N.")]
Init = Annotated[
    str | None,
    _attention(
        "--init",
        metavar="NAME",
        callback=_one_of(INITS),
        help=f"paper, or identity: start as the plain model{_default('init')}.",
    ),
]
Preset = Annotated[
    str | None,
    _attention("--preset", metavar="NAME", callback=_one_of(PRESETS), help=f"Details as in {', '.join(PRESETS)}."),
]
ModuleName = Annotated[
    str | None,
    _attention(
        "--name", metavar="NAME", help="What the new modules are called in their blocks (default: after the attention)."
    ),
]
StageOptions = Annotated[
    list[str] | None,
    _attention("--stage-option", metavar="S:K=V", help="An option for one stage, such as 5:k=7."),
]

Placement = Annotated[
    str | None,
    _sites(
        "--placement",
        metavar="NAME",
        callback=_one_of(PLACEMENTS),
        help=f"{', '.join(PLACEMENTS)}{_default('placement')}.",
    ),
]
Placements = Annotated[
    list[str] | None,
    _sites(
        "--placement",
        metavar="NAME",
        callback=lambda values: [_one_of(PLACEMENTS)(value) for value in values or ()],
        help=f"Of {', '.join(PLACEMENTS)}: one to compare; repeat it{_default('placement')}.",
    ),
]
Kinds = Annotated[str | None, _sites("--kinds", metavar="LIST", help=f"Of {', '.join(KINDS)}{_default('kinds')}.")]
Stages = Annotated[
    str | None, _sites("--stages", metavar="LIST", help="Only these, such as 3,4 (ResNet's are 2 to 5).")
]
Include = Annotated[list[str] | None, _sites("--include", metavar="GLOB", help="Only blocks whose path matches.")]
Exclude = Annotated[list[str] | None, _sites("--exclude", metavar="GLOB", help="No block whose path matches.")]
Every = Annotated[int | None, _sites("--every", metavar="N", help=f"Only every N-th site{_default('every')}.")]
MinChannels = Annotated[
    int | None,
    _sites("--min-channels", metavar="N", help=f"Only sites with at least N channels{_default('min_channels')}."),
]
Existing = Annotated[
    str | None,
    _sites(
        "--existing",
        metavar="NAME",
        callback=_one_of(EXISTING),
        help=f"Where a block has attention already: {', '.join(EXISTING)}{_default('existing')}.",
    ),
]
Scope = Annotated[
    str | None, _sites("--scope", metavar="PATH", help="Patch this submodule only, such as backbone.body.")
]
Form = Annotated[
    str,
    _sites(
        "--form",
        metavar="NAME",
        callback=_one_of(FORMS),
        help="How it is put in: graph (inject), or module (attach: the model's own classes) (default: graph).",
    ),
]
ExpectSites = Annotated[int | None, _sites("--expect-sites", metavar="N", help="Stop unless there are N sites.")]

FoldBy = Annotated[
    str,
    typer.Option(
        "--fold-by",
        metavar="MEASURE",
        callback=_one_of(FOLD_MEASURES),
        help="What TOLERANCE is of: outputs (how far they change), or accuracy (0.01 is one point; for data with the "
        "model's class numbers) (default: outputs).",
        show_default=False,
    ),
]

Full = Annotated[bool, _report("--full", help="One row for every site.")]
Diff = Annotated[bool, _report("--diff", help="Show each block's code before and after.")]
Convention = Annotated[
    str,
    _report(
        "--convention",
        metavar="NAME",
        callback=_one_of(("all", "paper")),
        help=f"Count all arithmetic, or as a paper does: convolutions and linears{_default('convention')}.",
    ),
]
Units = Annotated[
    str,
    _report(
        "--units",
        metavar="NAME",
        callback=_one_of(("decimal", "binary")),
        help=f"decimal (M = 10^6) or binary (Mi = 2^20){_default('units')}.",
    ),
]
Json = Annotated[str | None, _report("--json", metavar="FILE", help="Write the report as JSON.")]
Markdown = Annotated[str | None, _report("--markdown", metavar="FILE", help="Write it as Markdown.")]
Html = Annotated[str | None, _report("--html", metavar="FILE", help="Write it as one HTML page.")]
Plot = Annotated[str | None, _report("--plot", metavar="FILE", help="Write its charts: .png, .svg or .pdf.")]

NoBench = Annotated[bool, _speed("--no-bench", help="Do not measure speed.")]
BenchSeconds = Annotated[
    float,
    _speed("--bench-seconds", metavar="S", min=0.1, help=f"Limit of each measurement{_default('bench_seconds')}."),
]
Device = Annotated[str, _speed("--device", metavar="NAME", help=f"auto, cuda or cpu{_default('device')}.")]
Dtype = Annotated[
    str | None, _speed("--dtype", metavar="NAME", help="float32, bfloat16 or float16 (default: the model's).")
]
Batch = Annotated[
    int | None, _speed("--batch", metavar="N", min=1, help="Images at once (default: 32 on CUDA, 1 on a CPU).")
]
ChannelsLast = Annotated[bool, _speed("--channels-last", help="Measure in channels-last memory format.")]
Compile = Annotated[bool, _speed("--compile", help="Measure under torch.compile.")]
Threads = Annotated[
    int | None, _speed("--threads", metavar="N", min=1, help="Threads of torch while measuring (default: torch's).")
]
Training = Annotated[bool, _speed("--training", help="Measure a training step too.")]
Optimize = Annotated[bool, _speed("--optimize", help="Measure the optimised inference graph.")]

Out = Annotated[str | None, _output("--out", metavar="FILE", help="Save the model: .pt, .safetensors, .pt2 or .onnx.")]
AttentionOnly = Annotated[bool, _output("--attention-only", help="Save only the new tensors and the plan.")]
Force = Annotated[bool, _output("--force", help="Replace files that exist.")]
