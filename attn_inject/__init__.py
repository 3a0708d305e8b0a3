"""Channel attention for any convolutional network, put in by graph surgery.

The public names below are loaded on first use, so that `import attn_inject` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "AttentionError": "errors",
    "AttnInjectError": "errors",
    "CheckpointError": "errors",
    "Injection": "types",
    "InjectedModule": "injected",
    "Insertion": "types",
    "Plan": "types",
    "PlanError": "errors",
    "Report": "reporting.data",
    "RewriteError": "errors",
    "Site": "types",
    "Sites": "types",
    "Skipped": "types",
    "Source": "types",
    "SourceError": "errors",
    "TraceError": "errors",
    "Verification": "types",
    "apply_plan": "applying",
    "attach": "attaching",
    "attention_parameters": "new_parameters",
    "attention_state_dict": "new_parameters",
    "detach": "attaching",
    "find_sites": "planning",
    "freeze_original": "new_parameters",
    "inject": "injecting",
    "load": "checkpoint",
    "make_plan": "planning",
    "optimize": "optimizing",
    "optimize_training": "optimizing",
    "register_attention": "attention",
    "remove": "applying",
    "report": "reporting",
    "save": "checkpoint",
    "verify": "verifying",
}

__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
