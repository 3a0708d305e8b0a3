"""The options, as annotated types: how each is spelled, explained and grouped in the help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from attn_inject.types import DEFAULT_KINDS, EXISTING, FORMS, INITS, KINDS, PLACEMENTS, PRESETS


def _one_of(allowed: Sequence[str]) -> Callable[[str | None], str | None]:
    """A check of one word. typer's own choices would need an enumeration beside the tuples in `types`."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in allowed:
            raise typer.BadParameter(f"'{value}' is not one of {', '.join(allowed)}")
        return value

    return check


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
Models = Annotated[list[str] | None, typer.Argument(metavar="MODEL...", help="One or more models.", show_default=False)]
ModelOrRecipe = Annotated[str | None, typer.Argument(metavar="MODEL", help=_MODEL_HELP, show_default=False)]
Recipe = Annotated[
    str | None, _model("--recipe", metavar="NAME", help="Model and options of a published network, or of a .toml file.")
]
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
    str | None, _model("--input-size", metavar="SIZE", help="Of one input: 224, 192x224, 3x224x224, 3x16x112x112.")
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
        help="paper (default), or identity: start as the plain model.",
    ),
]
Preset = Annotated[
    str | None,
    _attention("--preset", metavar="NAME", callback=_one_of(PRESETS), help=f"Details as in {', '.join(PRESETS)}."),
]
ModuleName = Annotated[
    str | None, _attention("--name", metavar="NAME", help="What the new modules are called in their blocks.")
]
StageOptions = Annotated[
    list[str] | None,
    _attention("--stage-option", metavar="S:K=V", help="An option for one stage, such as 5:k=7."),
]

Placement = Annotated[
    str | None, _sites("--placement", metavar="NAME", callback=_one_of(PLACEMENTS), help=f"{', '.join(PLACEMENTS)}.")
]
Placements = Annotated[
    list[str] | None,
    _sites(
        "--placement",
        metavar="NAME",
        callback=lambda values: [_one_of(PLACEMENTS)(value) for value in values or ()],
        help="One to compare; give it several times.",
    ),
]
Kinds = Annotated[
    str | None, _sites("--kinds", metavar="LIST", help=f"Of {', '.join(KINDS)}; without: {', '.join(DEFAULT_KINDS)}.")
]
Stages = Annotated[
    str | None, _sites("--stages", metavar="LIST", help="Only these, such as 3,4 (ResNet's are 2 to 5).")
]
Include = Annotated[list[str] | None, _sites("--include", metavar="GLOB", help="Only blocks whose path matches.")]
Exclude = Annotated[list[str] | None, _sites("--exclude", metavar="GLOB", help="No block whose path matches.")]
Every = Annotated[int | None, _sites("--every", metavar="N", help="Only every N-th site.")]
MinChannels = Annotated[int | None, _sites("--min-channels", metavar="N", help="Only sites with at least N channels.")]
Existing = Annotated[
    str | None,
    _sites(
        "--existing",
        metavar="NAME",
        callback=_one_of(EXISTING),
        help=f"Where a block has attention already: {', '.join(EXISTING)}.",
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
        help="How the attention is put in: graph (inject), or module (attach: the model's own classes).",
    ),
]
ExpectSites = Annotated[int | None, _sites("--expect-sites", metavar="N", help="Stop unless there are N sites.")]

Full = Annotated[bool, _report("--full", help="One row for every site.")]
Diff = Annotated[bool, _report("--diff", help="Show each block's code before and after.")]
Convention = Annotated[
    str,
    _report(
        "--convention",
        metavar="NAME",
        callback=_one_of(("all", "paper")),
        help="Count all arithmetic, or as papers do: convolutions and linears.",
    ),
]
Units = Annotated[
    str, _report("--units", metavar="NAME", callback=_one_of(("decimal", "binary")), help="decimal or binary.")
]
Json = Annotated[str | None, _report("--json", metavar="FILE", help="Write the report as JSON.")]
Markdown = Annotated[str | None, _report("--markdown", metavar="FILE", help="Write it as Markdown.")]
Html = Annotated[str | None, _report("--html", metavar="FILE", help="Write it as one HTML page.")]
Plot = Annotated[str | None, _report("--plot", metavar="FILE", help="Write its charts: .png, .svg or .pdf.")]

NoBench = Annotated[bool, _speed("--no-bench", help="Do not measure speed.")]
BenchSeconds = Annotated[float, _speed("--bench-seconds", metavar="S", min=0.1, help="Limit of each measurement (3).")]
Device = Annotated[str, _speed("--device", metavar="NAME", help="auto, cuda or cpu.")]
Dtype = Annotated[str | None, _speed("--dtype", metavar="NAME", help="float32, bfloat16 or float16.")]
Batch = Annotated[int | None, _speed("--batch", metavar="N", min=1, help="Images at once.")]
ChannelsLast = Annotated[bool, _speed("--channels-last", help="Measure in channels-last memory format.")]
Compile = Annotated[bool, _speed("--compile", help="Measure under torch.compile.")]
Threads = Annotated[int | None, _speed("--threads", metavar="N", min=1, help="Threads of torch while measuring.")]
Training = Annotated[bool, _speed("--training", help="Measure a training step too.")]
Optimize = Annotated[bool, _speed("--optimize", help="Measure the optimised inference graph.")]

Out = Annotated[str | None, _output("--out", metavar="FILE", help="Save the model: .pt, .safetensors, .pt2 or .onnx.")]
AttentionOnly = Annotated[bool, _output("--attention-only", help="Save only the new tensors and the plan.")]
Force = Annotated[bool, _output("--force", help="Replace files that exist.")]
